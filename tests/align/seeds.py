"""Artifacts with an error planted in them, every hash of them valid: a build gone wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from arkinfer.artifact import ArtifactWriter, open_artifact

Array = npt.NDArray[Any]


def rewritten(
    source: Path,
    target: Path,
    *,
    entries: Mapping[str, Callable[[bytes], bytes]] | None = None,
    tensors: Mapping[str, Callable[[Array], None]] | None = None,
) -> Path:
    """A copy in which some entries and tensors are changed; a tensor in place."""
    entries, tensors = dict(entries or {}), dict(tensors or {})
    with open_artifact(source) as artifact, ArtifactWriter(target) as writer:
        known = artifact.manifest["tensors"]
        for entry in artifact.entries()[:-1]:
            name = entry.name.removeprefix("weights/")
            if entry.name.startswith("weights/") and name in known:
                array = np.array(artifact.tensor(name))
                tensors.pop(name, lambda array: None)(array)
                facts = artifact.tensor_entry(name)
                writer.add_tensor(name, facts.dtype, facts.shape, [array])
            else:
                change = entries.pop(entry.name, lambda data: data)
                writer.add_bytes(entry.name, change(artifact.read(entry.name)))
        assert not {*entries, *tensors}, "what was to change is not there"
        for section in artifact.sections.values():
            writer.add_section(section)
        kept = ("format", "arkinfer", "tensors", "sections", "entries")
        facts = {k: v for k, v in artifact.manifest.items() if k not in kept}
        writer.commit(json.loads(json.dumps(facts)))
    return target


def onnx_attribute(op: str, number: int, name: str, change: Callable[[Any], Any]):
    """Changes an attribute of the `number`-th node of an op."""

    def changed(data: bytes) -> bytes:
        import onnx

        model = onnx.load_model_from_string(data)
        node = [n for n in model.graph.node if n.op_type == op][number]
        (attribute,) = [a for a in node.attribute if a.name == name]
        value = change(onnx.helper.get_attribute_value(attribute))
        attribute.CopyFrom(onnx.helper.make_attribute(name, value))
        return model.SerializeToString()

    return changed
