"""Real networks of the TensorRT backend, and ways to break them for tests of its lint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, NodeProto, helper

from arkinfer.artifact import open_artifact
from arkinfer_trt.section import TensorRTSection


def networks(path: Path) -> dict[str, tuple[ModelProto, set[str]]]:
    """Of an artifact, by name: each with the inputs of which the executor makes constants."""
    with open_artifact(path) as artifact:
        facts = TensorRTSection.from_json(artifact.sections["tensorrt"].config)
        files: dict[str, str] = {**facts.networks}
        files |= {name: name for probe in facts.probes for name in probe.files.values()}
        models = {name: onnx.load_from_string(artifact.read(file)) for name, file in files.items()}
    constant = {name for each in facts.weights if each.constant for name in each.inputs}
    return {
        name: (model, constant & {value.name for value in model.graph.input})
        for name, model in models.items()
    }


class Broken:
    """A network in which things are put that do not belong there.

    Args:
        model: is changed.
    """

    def __init__(self, model: ModelProto) -> None:
        self.model, self.graph = model, model.graph

    def node(self, op: str, path: str = "") -> NodeProto:
        """The first one of that op, at a path that ends so."""
        return next(
            n
            for n in self.graph.node
            if n.op_type == op and n.name.rpartition("/")[0].endswith(path)
        )

    def weight(self, index: int) -> onnx.ValueInfoProto:
        """An input of the first DequantizeLinear."""
        name = self.node("DequantizeLinear").input[index]
        return next(value for value in self.graph.input if value.name == name)

    def before(self, node: NodeProto, index: int, op: str, **attributes: Any) -> NodeProto:
        """Puts an op of one input between a node and its input."""
        name = f"{node.input[index]}.{op}"
        made = helper.make_node(op, [node.input[index]], [name], name=f"seeded/{op}", **attributes)
        node.input[index] = name
        return self.insert(made, node)

    def insert(self, made: NodeProto, before: NodeProto) -> NodeProto:
        self.graph.node.insert(list(self.graph.node).index(before), made)
        return made

    def constant(self, name: str, dtype: int, shape: list[int], values: list[Any]) -> str:
        self.graph.initializer.append(helper.make_tensor(name, dtype, shape, values))
        return name

    def set(self, node: NodeProto, **values: Any) -> None:
        """Attributes; those given as None are removed."""
        kept = [a for a in node.attribute if a.name not in values]
        made = [helper.make_attribute(k, v) for k, v in values.items() if v is not None]
        del node.attribute[:]
        node.attribute.extend([*kept, *made])

    def reshape(self, index: int, shape: list[int]) -> None:
        """Of an input of the first DequantizeLinear."""
        kind = self.weight(index).type.tensor_type
        kind.ClearField("shape")
        for size in shape:
            kind.shape.dim.add(dim_value=size)


Seed = Callable[[Broken], None]
