"""Collects nodes, inputs, outputs and initializers of one ONNX network. Knows no IR.

Large initializers are external data whose location is their entry in the .ark file: unzip the
file, put the network beside `weights/`, and any ONNX tool reads it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

OPSET = 24
IR_VERSION = 12
"""That of opset 24."""

BITS: dict[int, int] = {
    TensorProto.FLOAT: 32,
    TensorProto.FLOAT16: 16,
    TensorProto.BFLOAT16: 16,
    TensorProto.INT4: 4,
}


class Graph:
    """A network in the making; names of nodes say which torch module they came from."""

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._initializers: dict[str, TensorProto] = {}
        self._names: dict[str, int] = {}

    def input(self, name: str, dtype: int, shape: list[int | str]) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, dtype: int, shape: list[int | str]) -> None:
        self._outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def constant(self, values: Any, dtype: Any) -> str:
        """A small array that stands in the network itself."""
        array = np.asarray(values, dtype)
        name = f"constant.{array.dtype}.{'x'.join(map(str, array.shape))}.{array.tolist()}"
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(array, name)
        return name

    def external(self, name: str, dtype: int, shape: tuple[int, ...], tensor: str) -> str:
        """A tensor of the artifact; `dtype` and `shape` are how the network reads its bytes."""
        if name not in self._initializers:
            proto = TensorProto(name=name, data_type=dtype, dims=shape)
            proto.data_location = TensorProto.EXTERNAL
            size = math.prod(shape) * BITS[dtype] // 8
            for key, value in (("location", f"weights/{tensor}"), ("length", str(size))):
                proto.external_data.add(key=key, value=value)
            self._initializers[name] = proto
        return name

    def add(self, op: str, inputs: list[str], loc: str, output: str = "", **attributes: Any) -> str:
        """Appends a node with one output, which is named after its place unless given."""
        name = self._unique(f"{loc}/{op}")
        output = output or name
        self._nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def _unique(self, name: str) -> str:
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return f"{name}.{count}" if count else name

    def model(self) -> bytes:
        """The serialized ModelProto; equal graphs give equal bytes."""
        graph: GraphProto = helper.make_graph(
            self._nodes, "step", self._inputs, self._outputs, list(self._initializers.values())
        )
        model: ModelProto = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="arkinfer",
        )
        return model.SerializeToString(deterministic=True)
