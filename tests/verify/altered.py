"""Writes an artifact again with some entries changed and every hash right: what a faulty build
would have written, or somebody who means harm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from arkinfer.artifact import ArtifactWriter, open_artifact
from arkinfer.artifact.layout import MANIFEST, SIGNATURE

Array = npt.NDArray[Any]
Change = Callable[[Any], Any]
"""Of a tensor: array -> array of the same shape; of another entry: bytes -> bytes, or None."""


def altered(path: Path, to: Path, changes: Mapping[str, Change]) -> Path:
    """Changes are by the name of the entry; a file whose change gives None is left out."""
    with open_artifact(path) as artifact, ArtifactWriter(to) as writer:
        assert set(changes) <= {entry.name for entry in artifact.entries()}
        for entry in artifact.entries():
            change = changes.get(entry.name, lambda same: same)
            if entry.name in (MANIFEST, SIGNATURE):
                continue
            if entry.name.startswith("weights/"):
                name = entry.name.removeprefix("weights/")
                array = np.array(artifact.tensor(name))
                facts = artifact.tensor_entry(name)
                writer.add_tensor(name, facts.dtype, facts.shape, [change(array)])
            elif (data := change(artifact.read(entry.name))) is not None:
                writer.add_bytes(entry.name, data)
        for section in artifact.sections.values():
            writer.add_section(section)
        own = ("format", "arkinfer", "tensors", "sections", "entries")
        return writer.commit({k: v for k, v in artifact.manifest.items() if k not in own})
