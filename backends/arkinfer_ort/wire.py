"""Writes serialized ONNX models without the onnx package: adds outputs to one, and makes a small
one. Knows no artifact; field numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from arkinfer.runtime.onnx_bytes import (
    DATA_TYPES,
    GRAPH_INITIALIZER,
    MODEL_GRAPH,
    chunk,
    number,
    tensor_head,
)

_MODEL_IR_VERSION = 1
_MODEL_OPSET = 8
_OPSET_VERSION = 2
_GRAPH_NODE = 1
_GRAPH_NAME = 2
_GRAPH_INPUT = 11
_GRAPH_OUTPUT = 12
_NODE_INPUT = 1
_NODE_OUTPUT = 2
_NODE_OP = 4
_VALUE_NAME = 1
_VALUE_TYPE = 2
_TYPE_TENSOR = 1
_TENSOR_TYPE_ELEMENT = 1
_TENSOR_RAW = 9


def with_outputs(model: bytes, names: Iterable[str]) -> bytes:
    """The model with more of its values as outputs; ONNX Runtime infers their types."""
    graph = b"".join(chunk(_GRAPH_OUTPUT, chunk(_VALUE_NAME, name.encode())) for name in names)
    return model + chunk(MODEL_GRAPH, graph)


def chain_model(length: int, op: str, side: int, inputs: int = 2) -> bytes:
    """A model of so many nodes one after the other: x1 = op(x, w …), x2 = op(x1, w …) ….

    x is float32 of any shape, w is zeros, float32 [side, side].
    """
    names = ["x", *(f"x{index}" for index in range(1, length + 1))]
    graph = chunk(_GRAPH_NAME, b"chain")
    for before, after in pairwise(names):
        node = chunk(_NODE_INPUT, before.encode()) + (inputs - 1) * chunk(_NODE_INPUT, b"w")
        node += chunk(_NODE_OUTPUT, after.encode()) + chunk(_NODE_OP, op.encode())
        graph += chunk(_GRAPH_NODE, node)
    kind = chunk(_TYPE_TENSOR, number(_TENSOR_TYPE_ELEMENT, DATA_TYPES["float32"]))
    for field, name in ((_GRAPH_INPUT, names[0]), (_GRAPH_OUTPUT, names[-1])):
        graph += chunk(field, chunk(_VALUE_NAME, name.encode()) + chunk(_VALUE_TYPE, kind))
    weight = tensor_head("w", "float32", (side, side)) + chunk(_TENSOR_RAW, bytes(4 * side**2))
    graph += chunk(GRAPH_INITIALIZER, weight)
    versions = number(_MODEL_IR_VERSION, 9) + chunk(_MODEL_OPSET, number(_OPSET_VERSION, 18))
    return versions + chunk(MODEL_GRAPH, graph)
