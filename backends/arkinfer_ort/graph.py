"""Collects the nodes, inputs and outputs of one ONNX graph. Knows no IR and no weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

OPSET = 18
IR_VERSION = 9
CONTRIB = "com.microsoft"

STANDARD = frozenset(
    {"Add", "Cast", "Cos", "Gather", "Mul", "ReduceSum", "Reshape", "Sin",
     "SimplifiedLayerNormalization"}
)  # fmt: skip
"""Ops of the default domain (the last one is ONNX Runtime's own, registered there)."""


class Graph:
    """A graph in the making; names of nodes say which torch module they came from."""

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._constants: dict[tuple[type, object], TensorProto] = {}
        self._names: dict[str, int] = {}

    def input(self, name: str, dtype: int, shape: list[int | str]) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, dtype: int, shape: list[int | str]) -> None:
        self._outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def scalar(self, value: float) -> str:
        """A float32 constant that stands in the model itself."""
        return self._constant(value, np.float32)

    def floats(self, *values: float) -> str:
        """A float32 vector that stands in the model itself."""
        return self._constant(values, np.float32)

    def integers(self, *values: int) -> str:
        """A vector of int64, such as a shape."""
        return self._constant(values, np.int64)

    def _constant(self, value: object, dtype: type) -> str:
        name = f"constant.{len(self._constants)}"
        made = numpy_helper.from_array(np.array(value, dtype), name)
        return self._constants.setdefault((dtype, value), made).name

    def add(self, op: str, inputs: list[str], loc: str, **attributes: Any) -> str:
        """Appends a node with one output; returns the output's name."""
        return self.add_multi(op, inputs, loc, [None], **attributes)[0]

    def add_multi(
        self,
        op: str,
        inputs: list[str],
        loc: str,
        outputs: Sequence[str | None],
        **attributes: Any,
    ) -> list[str]:
        """Appends a node; where `outputs` is None, the name follows from the node's.

        An output named "" is not computed.
        """
        name = self._unique(f"{loc}/{op}")
        named = [
            (f"{name}:{index}" if index else name) if output is None else output
            for index, output in enumerate(outputs)
        ]
        domain = "" if op in STANDARD else CONTRIB
        node = helper.make_node(op, inputs, named, name=name, domain=domain, **attributes)
        self._nodes.append(node)
        return named

    @property
    def size(self) -> int:
        """Nodes so far."""
        return len(self._nodes)

    def node_names(self, start: int) -> list[str]:
        """Names of the nodes from the `start`-th on."""
        return [node.name for node in self._nodes[start:]]

    def rename(self, old: str, new: str) -> None:
        """Gives a value another name, wherever it is made and used."""
        for node in self._nodes:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name == old:
                        names[index] = new

    def _unique(self, name: str) -> str:
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return f"{name}.{count}" if count else name

    def model(self) -> bytes:
        """The serialized ModelProto; equal graphs give equal bytes."""
        graph: GraphProto = helper.make_graph(
            self._nodes, "step", self._inputs, self._outputs, list(self._constants.values())
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        model: ModelProto = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="arkinfer"
        )
        return model.SerializeToString(deterministic=True)
