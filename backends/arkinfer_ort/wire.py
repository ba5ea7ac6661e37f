"""Writes serialized ONNX models without the onnx package: adds external initializers and outputs
to one, and makes a small one.

Protocol buffers merge by concatenation: a second `graph` field that holds only initializers adds
them to the first one's. Field numbers are those of onnx.proto. Knows no artifact.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

DATA_TYPES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "int32": 6,
    "int64": 7,
    "float16": 10,
    "bfloat16": 16,
}
"""numpy's name -> TensorProto.DataType."""

_MODEL_IR_VERSION = 1
_MODEL_GRAPH = 7
_MODEL_OPSET = 8
_OPSET_VERSION = 2
_GRAPH_NODE = 1
_GRAPH_NAME = 2
_GRAPH_INITIALIZER = 5
_GRAPH_INPUT = 11
_GRAPH_OUTPUT = 12
_NODE_INPUT = 1
_NODE_OUTPUT = 2
_NODE_OP = 4
_VALUE_NAME = 1
_VALUE_TYPE = 2
_TYPE_TENSOR = 1
_TENSOR_TYPE_ELEMENT = 1
_TENSOR_DIMS = 1
_TENSOR_DATA_TYPE = 2
_TENSOR_NAME = 8
_TENSOR_RAW = 9
_TENSOR_EXTERNAL_DATA = 13
_TENSOR_DATA_LOCATION = 14
_EXTERNAL = 1
_ENTRY_KEY = 1
_ENTRY_VALUE = 2


@dataclass(frozen=True)
class ExternalTensor:
    """An initializer whose bytes lie in a file.

    Attributes:
        name: in the graph.
        dtype: a key of `DATA_TYPES`.
        dims: its shape.
        location: the file's name in the folder that the session is told.
        offset: of the first byte.
        length: in bytes.
    """

    name: str
    dtype: str
    dims: Sequence[int]
    location: str
    offset: int
    length: int


def with_initializers(model: bytes, tensors: Iterable[ExternalTensor]) -> bytes:
    """The model with more initializers.

    Raises:
        KeyError: a dtype that ONNX Runtime does not get from us.
        ValueError: a negative number.
    """
    graph = b"".join(_bytes(_GRAPH_INITIALIZER, _tensor(tensor)) for tensor in tensors)
    return model + _bytes(_MODEL_GRAPH, graph)


def with_outputs(model: bytes, names: Iterable[str]) -> bytes:
    """The model with more of its values as outputs; ONNX Runtime infers their types."""
    graph = b"".join(_bytes(_GRAPH_OUTPUT, _bytes(_VALUE_NAME, name.encode())) for name in names)
    return model + _bytes(_MODEL_GRAPH, graph)


def chain_model(length: int, op: str, side: int, inputs: int = 2) -> bytes:
    """A model of so many nodes one after the other: x1 = op(x, w …), x2 = op(x1, w …) ….

    x is float32 of any shape, w is zeros, float32 [side, side].
    """
    names = ["x", *(f"x{index}" for index in range(1, length + 1))]
    graph = _bytes(_GRAPH_NAME, b"chain")
    for before, after in pairwise(names):
        node = _bytes(_NODE_INPUT, before.encode()) + (inputs - 1) * _bytes(_NODE_INPUT, b"w")
        node += _bytes(_NODE_OUTPUT, after.encode()) + _bytes(_NODE_OP, op.encode())
        graph += _bytes(_GRAPH_NODE, node)
    kind = _bytes(_TYPE_TENSOR, _number(_TENSOR_TYPE_ELEMENT, DATA_TYPES["float32"]))
    for field, name in ((_GRAPH_INPUT, names[0]), (_GRAPH_OUTPUT, names[-1])):
        graph += _bytes(field, _bytes(_VALUE_NAME, name.encode()) + _bytes(_VALUE_TYPE, kind))
    weight = _tensor_head("w", "float32", (side, side)) + _bytes(_TENSOR_RAW, bytes(4 * side**2))
    graph += _bytes(_GRAPH_INITIALIZER, weight)
    versions = _number(_MODEL_IR_VERSION, 9) + _bytes(_MODEL_OPSET, _number(_OPSET_VERSION, 18))
    return versions + _bytes(_MODEL_GRAPH, graph)


def _tensor_head(name: str, dtype: str, dims: Sequence[int]) -> bytes:
    data = b"".join(_number(_TENSOR_DIMS, size) for size in dims)
    data += _number(_TENSOR_DATA_TYPE, DATA_TYPES[dtype])
    return data + _bytes(_TENSOR_NAME, name.encode())


def _tensor(tensor: ExternalTensor) -> bytes:
    data = _tensor_head(tensor.name, tensor.dtype, tensor.dims)
    facts = {"location": tensor.location, "offset": tensor.offset, "length": tensor.length}
    for key, value in facts.items():
        entry = _bytes(_ENTRY_KEY, key.encode()) + _bytes(_ENTRY_VALUE, str(value).encode())
        data += _bytes(_TENSOR_EXTERNAL_DATA, entry)
    return data + _number(_TENSOR_DATA_LOCATION, _EXTERNAL)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Seven bits per byte, low ones first."""
    if value < 0:
        raise ValueError(f"{value} is negative")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
