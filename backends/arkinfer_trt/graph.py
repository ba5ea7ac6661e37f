"""Collects nodes, inputs, outputs and constants of one ONNX network. Knows no IR.

Every node says which op of the IR it is for, and at which torch path: as its metadata `op` and
`loc`, by which rules that a network breaks are told in words of the model.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from arkinfer_trt.kernels.gemv import Gemv
from arkinfer_trt.kernels.node import DOMAIN, gemv_node

OPSET = 24
IR_VERSION = 12
"""That of opset 24."""

_FEW = 8
"""Numbers of a constant that its name tells."""


class Origin(NamedTuple):
    """What a node is for: an op of the IR, and its torch path ("" where it has none)."""

    op: str
    loc: str


class Tensor(NamedTuple):
    """An input of a network: name, ONNX element type and shape."""

    name: str
    dtype: int
    shape: tuple[int | str, ...]


class Graph:
    """A network in the making; names of nodes say which torch module they came from."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: list[NodeProto] = []
        self._inputs: dict[str, Any] = {}
        self._outputs: list[Any] = []
        self._values: list[Any] = []
        self._constants: dict[str, TensorProto] = {}
        self._names: dict[str, int] = {}

    def input(self, tensor: Tensor) -> str:
        """Its name; it is an input once, however often it is asked for."""
        if tensor.name not in self._inputs:
            self._inputs[tensor.name] = helper.make_tensor_value_info(*tensor)
        return tensor.name

    @property
    def inputs(self) -> list[str]:
        """Names, in order."""
        return list(self._inputs)

    def output(self, tensor: Tensor) -> None:
        self._outputs.append(helper.make_tensor_value_info(*tensor))

    def constant(self, values: Any, dtype: Any) -> str:
        """A small array that stands in the network itself."""
        array = np.asarray(values, dtype)
        few = array.size <= _FEW
        said = array.tolist() if few else hashlib.sha256(array.tobytes()).hexdigest()[:16]
        name = f"constant.{array.dtype}.{'x'.join(map(str, array.shape))}.{said}"
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(array, name)
        return name

    def add(
        self, op: str, inputs: list[str], origin: Origin, output: str = "", **attributes: Any
    ) -> str:
        """Appends a node with one output, which is named after its place unless given."""
        name = self._unique(f"{origin.loc}/{op}")
        output = output or name
        self._append(helper.make_node(op, inputs, [output], name=name, **attributes), origin)
        return output

    def gemv(
        self, gemv: Gemv, inputs: list[str], origin: Origin, dtype: int, rows: str, output: str = ""
    ) -> str:
        """Appends a product by the plug-in, [1, rows, gemv.width].

        Its type is written down, because tools that do not know the plug-in cannot infer it.
        """
        name = self._unique(f"{origin.loc}/Gemv")
        output = output or name
        self._append(gemv_node(gemv, inputs, output, name), origin)
        return self.declared(Tensor(output, dtype, (1, rows, gemv.width)))

    def declared(self, tensor: Tensor) -> str:
        """The name of a node's output, of which ONNX cannot infer all that is known."""
        self._values.append(helper.make_tensor_value_info(*tensor))
        return tensor.name

    def _append(self, node: NodeProto, origin: Origin) -> None:
        for key, value in origin._asdict().items():
            node.metadata_props.add(key=key, value=value)
        self._nodes.append(node)

    def _unique(self, name: str) -> str:
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return f"{name}.{count}" if count else name

    def model(self) -> ModelProto:
        """The network; equal graphs give equal ones."""
        outputs = {value.name for value in self._outputs}
        graph: GraphProto = helper.make_graph(
            self._nodes,
            self._name,
            list(self._inputs.values()),
            self._outputs,
            list(self._constants.values()),
            value_info=[value for value in self._values if value.name not in outputs],
        )
        opsets = [helper.make_opsetid("", OPSET)]
        if any(node.domain == DOMAIN for node in self._nodes):
            opsets.append(helper.make_opsetid(DOMAIN, 1))
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="arkinfer"
        )
