"""Writes serialized ONNX models without the onnx package: adds initializers whose bytes lie
elsewhere. Knows no artifact and no backend.

Protocol buffers merge by concatenation: a second `graph` field that holds only initializers adds
them to the first one's. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

DATA_TYPES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "int32": 6,
    "int64": 7,
    "float16": 10,
    "bfloat16": 16,
    "int4": 22,
}
"""numpy's name, or that of ml_dtypes -> TensorProto.DataType."""

MODEL_GRAPH = 7
GRAPH_INITIALIZER = 5
_TENSOR_DIMS = 1
_TENSOR_DATA_TYPE = 2
_TENSOR_NAME = 8
_TENSOR_EXTERNAL_DATA = 13
_TENSOR_DATA_LOCATION = 14
_EXTERNAL = 1
_ENTRY_KEY = 1
_ENTRY_VALUE = 2


@dataclass(frozen=True)
class ExternalTensor:
    """An initializer whose bytes lie in a file, or are handed over by its name.

    Attributes:
        name: in the graph.
        dtype: a key of `DATA_TYPES`.
        dims: its shape.
        location: the file's name in the folder that the runtime is told.
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
        KeyError: a dtype that no runtime gets from us.
        ValueError: a negative number.
    """
    graph = b"".join(chunk(GRAPH_INITIALIZER, _tensor(tensor)) for tensor in tensors)
    return model + chunk(MODEL_GRAPH, graph)


def tensor_head(name: str, dtype: str, dims: Sequence[int]) -> bytes:
    """A TensorProto without its numbers."""
    data = b"".join(number(_TENSOR_DIMS, size) for size in dims)
    data += number(_TENSOR_DATA_TYPE, DATA_TYPES[dtype])
    return data + chunk(_TENSOR_NAME, name.encode())


def _tensor(tensor: ExternalTensor) -> bytes:
    data = tensor_head(tensor.name, tensor.dtype, tensor.dims)
    facts = {"location": tensor.location, "offset": tensor.offset, "length": tensor.length}
    for key, value in facts.items():
        entry = chunk(_ENTRY_KEY, key.encode()) + chunk(_ENTRY_VALUE, str(value).encode())
        data += chunk(_TENSOR_EXTERNAL_DATA, entry)
    return data + number(_TENSOR_DATA_LOCATION, _EXTERNAL)


def number(field: int, value: int) -> bytes:
    """A field that is a number."""
    return _varint(field << 3) + _varint(value)


def chunk(field: int, value: bytes) -> bytes:
    """A field that is a text, bytes or a message."""
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
