"""Real networks of the TensorRT backend, and ways to break them for tests of its lint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from arkinfer.artifact import open_artifact
from arkinfer_trt.kernels.gemv import Gemv
from arkinfer_trt.kernels.node import DOMAIN, gemv_node
from arkinfer_trt.section import TensorRTSection
from tests.backends.trt.runner import runnable


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


def filled(path: Path) -> ModelProto:
    """The network with int4 by DequantizeLinear, after the executor has put constants in it, whose
    numbers are elsewhere."""
    with open_artifact(path) as artifact:
        model, _ = runnable(artifact, artifact.sections["tensorrt"], "native")
    del model.functions[:]
    inputs = {value.name for value in model.graph.input}
    made = {tensor.name for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        if tensor.name in inputs:
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="weights")
    kept = [value for value in model.graph.input if value.name not in made]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return model


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

    def tensor(self, name: str) -> onnx.TensorProto:
        return next(t for t in self.graph.initializer if t.name == name)

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

    def shape(self, name: str) -> list[int]:
        return list(self.tensor(name).dims)

    def reshape(self, name: str, shape: list[int]) -> None:
        """Of a constant, of which only the shape matters."""
        del self.tensor(name).dims[:]
        self.tensor(name).dims.extend(shape)

    def retype(self, name: str, dtype: int) -> None:
        self.tensor(name).data_type = dtype

    def fill(self, name: str, values: npt.NDArray[Any]) -> None:
        """Numbers of a constant, in the network itself."""
        self.tensor(name).CopyFrom(numpy_helper.from_array(values, name))

    def weights_as_inputs(self, op: str) -> list[str]:
        """Turns constants that such nodes read into inputs, and names them."""
        read = {name for node in self.graph.node if node.op_type == op for name in node.input}
        found = [tensor for tensor in self.graph.initializer if tensor.name in read]
        for tensor in found:
            kind = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            self.graph.input.append(kind)
            self.graph.initializer.remove(tensor)
        return [kind.name for kind in self.graph.input if kind.name in read]

    def plugin(self) -> NodeProto:
        """A product by the GEMV plug-in in the place of one by DequantizeLinear."""
        dequantized = self.node("DequantizeLinear")
        matmul = next(n for n in self.graph.node if dequantized.output[0] in n.input)
        inputs, width = self.tensor(dequantized.input[0]).dims
        gemv = Gemv(4, 32, inputs, width)
        for name, (dtype, shape) in gemv.parts().items():
            kind = {"int32": onnx.TensorProto.INT32, "float16": onnx.TensorProto.FLOAT16}[dtype]
            self.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
        made = gemv_node(gemv, [matmul.input[0], "words", "scale"], matmul.output[0], matmul.name)
        made.metadata_props.extend(matmul.metadata_props)
        kind = helper.make_tensor_value_info(
            matmul.output[0], onnx.TensorProto.FLOAT16, [1, "T", width]
        )
        self.graph.value_info.append(kind)
        self.model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
        matmul.CopyFrom(made)
        self.graph.node.remove(dequantized)
        return matmul


Seed = Callable[[Broken], None]
