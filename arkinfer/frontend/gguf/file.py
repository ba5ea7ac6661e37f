"""The header of a GGUF file: its metadata and where its tensors lie. Knows no model.

A reader of our own, since the `gguf` package maps the file, makes an array of every string and
trusts every count: a file of some bytes can ask it for any amount of memory. Here every count is
checked before something is made of it. That package is what the tests compare with.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from arkinfer.errors import CheckpointError, UnsupportedError
from arkinfer.frontend.gguf.blocks import TYPES, BlockType, type_name
from arkinfer.frontend.slots import damaged, truncated
from arkinfer.limits import TEXT_BYTES, are_sizes

Value: TypeAlias = "bool | int | float | str | list[str] | npt.NDArray[Any]"
"""What a key of the metadata stands for; arrays of numbers are 1-d arrays of their dtype."""

HEADER_BYTES = 32 << 20
"""The longest metadata and table of tensors; Llama 3's, with 280,000 merges, has 8 MiB."""

MOST_ENTRIES = 1 << 16
"""Keys, and tensors: a thousand layers have nine each."""

MOST_STRINGS = 700_000
"""Strings in all arrays together, each of which costs some 60 bytes; Llama 3 has 410,000."""

LONGEST_NAME = 1 << 10
"""Bytes of a key or of a tensor's name; llama.cpp allows 64 of the latter."""

_SCALARS: dict[int, np.dtype[Any]] = {
    number: np.dtype(code)
    for number, code in enumerate(("u1", "i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?"))
} | {10: np.dtype("<u8"), 11: np.dtype("<i8"), 12: np.dtype("<f8")}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class Entry:
    """A tensor of the file, whose rows are made of blocks.

    Attributes:
        file: where it lies.
        offset: of its first byte in the file.
        type: of its blocks.
        shape: rows first, as numpy has it (the file has the row's length first).
    """

    file: Path
    offset: int
    type: BlockType
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return self.shape[-1] // self.type.elements * self.type.nbytes

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape[:-1]) * self.row_bytes


@dataclass(frozen=True)
class Header:
    """What a GGUF file says before its data."""

    metadata: Mapping[str, Value]
    tensors: Mapping[str, Entry]


def read_header(file: Path) -> Header:
    """The metadata and the table of tensors of one file.

    Raises:
        CheckpointError: it is no GGUF file, or cut off, or contradicts itself or its size.
        UnsupportedError: a version, a byte order or a tensor type that is not read.
    """
    size = file.stat().st_size
    with file.open("rb") as source:
        cursor = _Cursor(file, source, size)
        tensors, keys = _counts(cursor)
        metadata: dict[str, Value] = {}
        for _ in range(keys):
            key = cursor.text(LONGEST_NAME)
            if key in metadata:
                raise damaged(file, f'Its metadata has "{key}" twice')
            metadata[key] = cursor.value(cursor.number("<I"))
        claims = [_claim(cursor) for _ in range(tensors)]
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 1 <= alignment <= 1 << 20 or alignment % 8:
            raise damaged(file, f"Its general.alignment is {alignment!r}")
        start = -(-cursor.done // alignment) * alignment
    table: dict[str, Entry] = {}
    for name, shape, kind, offset in claims:
        if name in table:
            raise damaged(file, f'It has the tensor "{name}" twice')
        table[name] = _entry(file, name, shape, kind, offset, start, alignment)
    end = max((entry.offset + entry.nbytes for entry in table.values()), default=0)
    if end > size:
        raise truncated(file, end)
    return Header(metadata, table)


_Claim: TypeAlias = tuple[str, tuple[int, ...], int, int]
"""Name, shape, number of the type, and offset of a tensor, as the table has them."""


def _counts(cursor: _Cursor) -> tuple[int, int]:
    """How many tensors and how many keys there are."""
    magic = cursor.take(min(4, cursor.size))
    if magic != b"GGUF":
        raise _no_gguf(cursor.file, magic)
    version = cursor.number("<I")
    if version and version & 0xFFFF == 0:
        raise UnsupportedError(
            f"{cursor.file.name} was made for machines with the other byte order",
            "Only little-endian GGUF files are read",
            "Use the usual file of the model.",
        )
    if version not in (2, 3):
        raise UnsupportedError(
            f"{cursor.file.name} has version {version} of the GGUF format",
            "Versions 2 and 3 are read",
            "Convert the model again with a present llama.cpp.",
        )
    tensors, keys = cursor.number("<Q"), cursor.number("<Q")
    for what, count in (("tensors", tensors), ("keys", keys)):
        if count > MOST_ENTRIES:
            raise damaged(cursor.file, f"It claims to have {count:,} {what}")
    return tensors, keys


def _no_gguf(file: Path, start: bytes) -> CheckpointError:
    if start == b"vers":
        return CheckpointError(
            f"{file.name} is a Git LFS pointer, not the model",
            "The repository was cloned without its large files",
            "Run `git lfs pull` in its folder.",
        )
    return damaged(file, "It does not begin with the letters GGUF")


def _claim(cursor: _Cursor) -> _Claim:
    name = cursor.text(LONGEST_NAME)
    dims = cursor.number("<I")
    if not 1 <= dims <= 4:
        raise damaged(cursor.file, f'Its tensor "{name}" has {dims} dimensions')
    shape = struct.unpack(f"<{dims}Q", cursor.take(8 * dims))
    return name, shape[::-1], cursor.number("<I"), cursor.number("<Q")


def _entry(
    file: Path,
    name: str,
    shape: tuple[int, ...],
    kind: int,
    offset: int,
    start: int,
    alignment: int,
) -> Entry:
    if kind not in TYPES:
        raise UnsupportedError(
            f"The tensor {name} of {file.name} is stored as {type_name(kind)}",
            f"Read are {', '.join(known.name for known in TYPES.values())}",
            "Use another file of the model, for example its Q4_K_M, Q8_0 or F16.",
        )
    found = TYPES[kind]
    if not are_sizes(shape) or 0 in shape or offset >= 1 << 62 or offset % alignment:
        raise damaged(file, f'Its tensor "{name}" of {list(shape)} begins at byte {offset:,}')
    if shape[-1] % found.elements:
        raise damaged(
            file, f'The rows of its tensor "{name}" have {shape[-1]} numbers, no whole blocks'
        )
    return Entry(file, start + offset, found, shape)


class _Cursor:
    """Reads a file from its beginning on, and no byte that it does not have."""

    def __init__(self, file: Path, source: IO[bytes], size: int) -> None:
        self.file, self.size, self.done = file, size, 0
        self._source, self._strings = source, 0

    def take(self, count: int) -> bytes:
        if self.done + count > HEADER_BYTES:
            raise damaged(self.file, f"Its metadata has more than {HEADER_BYTES:,} bytes")
        self.done += count
        data = self._source.read(count) if self.done <= self.size else b""
        if len(data) < count:
            raise truncated(self.file, self.done)
        return data

    def number(self, code: str) -> int:
        return int(struct.unpack(code, self.take(struct.calcsize(code)))[0])

    def text(self, most: int = TEXT_BYTES) -> str:
        count = self.number("<Q")
        if count > most:
            raise damaged(self.file, f"A text in its metadata claims to have {count:,} bytes")
        try:
            return self.take(count).decode()
        except UnicodeDecodeError as error:
            raise damaged(self.file, f"A text in its metadata is not UTF-8: {error}") from None

    def value(self, kind: int) -> Value:
        """The value of a key, whose type stands before it."""
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.number("<I"), self.number("<Q")
            if inner == _STRING:
                return self._texts(count)
            if inner in _SCALARS:
                return self._numbers(inner, count)
            raise damaged(self.file, f"Its metadata has an array of the unknown type {inner}")
        if kind in _SCALARS:
            return self._numbers(kind, 1)[0].item()
        raise damaged(self.file, f"Its metadata has a value of the unknown type {kind}")

    def _numbers(self, kind: int, count: int) -> npt.NDArray[Any]:
        dtype = _SCALARS[kind]
        data = np.frombuffer(self.take(min(count, 1 << 62) * dtype.itemsize), dtype)
        return data if dtype != np.bool_ else data.view(np.uint8) != 0

    def _texts(self, count: int) -> list[str]:
        self._strings += count
        if self._strings > MOST_STRINGS:
            raise damaged(self.file, f"Its metadata has more than {MOST_STRINGS:,} texts")
        return [self.text() for _ in range(count)]
