"""Writes a GGUF file, tensor by tensor. Knows no model.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from arkinfer.errors import InternalError
from arkinfer.report.files import whole_file

Value: TypeAlias = "bool | str | np.generic | Sequence[str] | npt.NDArray[Any]"
"""A value of the metadata; the dtype of a number or an array says how it is stored."""

_ALIGNMENT = 32
_STRING, _ARRAY = 8, 9
_NUMBERS = {"uint32": 4, "int32": 5, "float32": 6, "bool": 7, "uint64": 10}


@dataclass(frozen=True)
class Tensor:
    """A tensor to write.

    Attributes:
        name: in the file.
        shape: rows first.
        number: of its type.
        nbytes: that its blocks have together.
        blocks: gives them, from the first row to the last.
    """

    name: str
    shape: tuple[int, ...]
    number: int
    nbytes: int
    blocks: Callable[[], Iterable[npt.NDArray[np.uint8]]]


def write_gguf(
    path: str | Path,
    metadata: Mapping[str, Value],
    tensors: Sequence[Tensor],
    on_tensor: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Writes a file under a temporary name and renames it; holds one piece of a tensor at a time.

    Args:
        path: the file.
        metadata: its keys.
        tensors: in the order in which they are to lie there.
        on_tensor: told how many of how many are written.

    Returns:
        Its bytes.

    Raises:
        UsageError, ResourceError: see `whole_file`.
    """
    with whole_file(path) as stream:
        stream.write(_header(metadata, tensors))
        for done, tensor in enumerate(tensors):
            on_tensor(done, len(tensors))
            _pad(stream)
            start = stream.tell()
            for piece in tensor.blocks():
                stream.write(np.ascontiguousarray(piece).data)
            if stream.tell() - start != tensor.nbytes:
                raise InternalError(f"{tensor.name} has {stream.tell() - start} bytes")
        _pad(stream)
        return stream.tell()


def _header(metadata: Mapping[str, Value], tensors: Sequence[Tensor]) -> bytes:
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [_text(key), _value(value)]
    offset = 0
    for tensor in tensors:
        dims = tensor.shape[::-1]
        parts.append(_text(tensor.name))
        parts.append(struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, tensor.number, offset))
        offset += tensor.nbytes + -tensor.nbytes % _ALIGNMENT
    return b"".join(parts)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Value) -> bytes:
    """The number of a type, then the value."""
    if isinstance(value, bool):
        value = np.bool_(value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    if isinstance(value, np.ndarray):
        kind, data = _NUMBERS[value.dtype.name], np.ascontiguousarray(value)
        return struct.pack("<IIQ", _ARRAY, kind, len(data)) + data.tobytes()
    if isinstance(value, np.generic):
        return struct.pack("<I", _NUMBERS[value.dtype.name]) + value.tobytes()
    return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_text, value))


def _pad(stream: IO[bytes]) -> None:
    stream.write(bytes(-stream.tell() % _ALIGNMENT))
