"""The table of tensors of a pytorch_model.bin. Imports no torch and runs no pickle.

The file is a ZIP whose `data.pkl` describes tensors over raw storages beside it. The pickle is
*interpreted* here: a stack machine that knows dictionaries, tuples, numbers, strings and the four
names that a state dict needs. Nothing it mentions is ever imported or called.
Source: `torch/serialization.py`, `torch/_weights_only_unpickler.py`.
"""

from __future__ import annotations

import io
import math
import pickletools
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import ml_dtypes
import numpy as np

from arkinfer.errors import CheckpointError, UnsupportedError
from arkinfer.frontend.slots import Slot, damaged, truncated
from arkinfer.limits import are_sizes

_STORAGES: dict[str, np.dtype[Any]] = {
    "torch DoubleStorage": np.dtype(np.float64),
    "torch FloatStorage": np.dtype(np.float32),
    "torch HalfStorage": np.dtype(np.float16),
    "torch BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch LongStorage": np.dtype(np.int64),
    "torch IntStorage": np.dtype(np.int32),
    "torch ShortStorage": np.dtype(np.int16),
    "torch CharStorage": np.dtype(np.int8),
    "torch ByteStorage": np.dtype(np.uint8),
    "torch BoolStorage": np.dtype(np.bool_),
}
_REBUILD = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_ORDERED = "collections OrderedDict"
_ALLOWED = frozenset({*_STORAGES, _REBUILD, _PARAMETER, _ORDERED})

_LONGEST_READ = 2 << 20
"""Bytes of the pickle or of the ZIP's directory; a thousand tensors need 0.3 MiB of either."""

_MOST_OPERATIONS = 400_000
"""Of the pickle; each costs up to 100 bytes of memory, and a tensor takes 50 of them."""


@dataclass(frozen=True)
class _Name:
    """A name that the pickle mentions; only ever compared."""

    text: str


@dataclass(frozen=True)
class _Storage:
    dtype: np.dtype[Any]
    key: str


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Refused(Exception):
    """The pickle asks for something that no state dict needs."""


def read_table(file: Path) -> dict[str, Slot]:
    """Every tensor of the file by name.

    Raises:
        CheckpointError: the file is damaged, or its pickle is not that of a state dict.
        UnsupportedError: the file is of the format before torch 1.6, or a tensor is strided.
    """
    entries = _directory(file)
    pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise damaged(file, "It has no data.pkl, so torch.save did not write it")
    prefix = pickles[0].removesuffix("data.pkl")
    order = entries.get(f"{prefix}byteorder")
    if order is not None and _stored(file, order) != b"little":
        raise UnsupportedError(
            f"{file.name} was saved on a big-endian machine", "", "Save it again on another one."
        )
    table: dict[str, Slot] = {}
    for name, tensor in _interpret(file, _stored(file, entries[pickles[0]])).items():
        entry = entries.get(f"{prefix}data/{tensor.storage.key}")
        if entry is None or entry.compress_type != zipfile.ZIP_STORED:
            raise damaged(file, f"The storage of {name} is not in it")
        table[name] = _slot(file, name, tensor, entry)
    return table


class _Bounded(io.FileIO):
    """A file that gives at most `_LONGEST_READ` bytes at once, whatever `zipfile` asks for."""

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = _LONGEST_READ if size is None or size < 0 else min(size, _LONGEST_READ)
        return super().read(wanted) or b""


def _directory(file: Path) -> dict[str, zipfile.ZipInfo]:
    """The entries of the ZIP by name; nothing is unpacked."""
    with _Bounded(file) as source:
        try:
            with zipfile.ZipFile(source) as archive:
                return {info.filename: info for info in archive.infolist()}
        except _NO_ZIP as error:
            raise _not_a_zip(file) from error


_NO_ZIP = (
    zipfile.BadZipFile, ArithmeticError, NotImplementedError, OSError, ValueError, struct.error
)  # fmt: skip
"""What `zipfile` raises of bytes that are no ZIP; the file itself is open already."""


def _stored(file: Path, entry: zipfile.ZipInfo) -> bytes:
    """The bytes of an entry that torch.save wrote as they are."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > _LONGEST_READ:
        raise damaged(file, f"{entry.filename} in it is compressed or too long")
    offset = _data_offset(file, entry)
    with file.open("rb") as source:
        source.seek(offset)
        data = source.read(entry.file_size)
    if zlib.crc32(data) != entry.CRC:
        raise damaged(file, f"{entry.filename} in it does not match its CRC-32")
    return data


def _slot(file: Path, name: str, tensor: _Tensor, entry: zipfile.ZipInfo) -> Slot:
    item = tensor.storage.dtype.itemsize
    packed = [math.prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))]
    sizes = zip(tensor.shape, tensor.strides, packed, strict=True)
    if any(stride != dense for size, stride, dense in sizes if size > 1):
        raise UnsupportedError(
            f"{name} in {file.name} is not stored row by row",
            f"Its strides are {list(tensor.strides)} for the shape {list(tensor.shape)}",
            "Save the checkpoint again as safetensors, with contiguous tensors.",
        )
    if (tensor.start + math.prod(tensor.shape)) * item > entry.file_size:
        raise damaged(file, f"The storage of {name} is smaller than the tensor")
    offset = _data_offset(file, entry) + tensor.start * item
    return Slot(file, offset, tensor.storage.dtype, tensor.shape)


def _data_offset(file: Path, entry: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored ZIP entry begin. Source: APPNOTE.TXT 4.3.7."""
    size = file.stat().st_size
    if not 0 <= entry.header_offset <= size:
        raise damaged(file, f"Its ZIP entry {entry.filename} begins outside of it")
    with file.open("rb") as source:
        source.seek(entry.header_offset)
        local = source.read(30)
    if local[:4] != b"PK\x03\x04":
        raise damaged(file, f"Its ZIP entry {entry.filename} is not where the directory says")
    names = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    offset = entry.header_offset + 30 + names
    if offset + entry.file_size > size:
        raise truncated(file, offset + entry.file_size)
    return offset


def _not_a_zip(file: Path) -> CheckpointError | UnsupportedError:
    with file.open("rb") as source:
        start = source.read(64)
    if start.startswith(b"version"):
        return CheckpointError(
            f"{file.name} is a Git LFS pointer, not the weights",
            "The repository was cloned without its large files",
            "Run `git lfs pull` in the checkpoint's folder.",
        )
    if start[:1] == b"\x80" and b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19" in start:
        return UnsupportedError(
            f"{file.name} has the format of torch before 1.6",
            "Its tensors cannot be read without running its pickle",
            "Load it with torch.load and save it again as safetensors.",
        )
    return damaged(file, "It is not a ZIP file, as torch.save writes, or it is cut off")


def _interpret(file: Path, pickle: bytes) -> dict[str, _Tensor]:
    try:
        state = _Machine().run(pickle)
    except _Refused as error:
        raise CheckpointError(
            f"{file.name} is not a plain state dict",
            f"Its pickle asks for {error}, which could run code",
            "Use a safetensors checkpoint, or save the state dict alone.",
        ) from error
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise damaged(file, f"Its data.pkl cannot be read: {error}") from error
    if not isinstance(state, dict):
        raise damaged(file, "Its data.pkl holds no dictionary of tensors")
    tensors: dict[str, _Tensor] = {}
    for name, value in cast("dict[str, Any]", state).items():
        if not isinstance(value, _Tensor):
            raise damaged(file, f'"{name}" in it is not a tensor')
        tensors[name] = value
    return tensors


class _Machine:
    """A pickle interpreter that makes only plain data and `_Tensor`s."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, pickle: bytes) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(pickle)):
            if count >= _MOST_OPERATIONS:
                raise ValueError(f"it has more than {_MOST_OPERATIONS:,} operations")
            if opcode.name == "STOP":
                return self._stack.pop()
            self._step(opcode.name, argument)
        raise ValueError("it has no end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in ("PROTO", "FRAME"):
            return
        if name in _LITERALS:
            stack.append(argument)
        elif name in _MADE:
            stack.append(_MADE[name]())
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if argument is None else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(self._to_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self._pop(int(name[-1]))))
        elif name in ("APPEND", "APPENDS"):
            items = self._to_mark() if name == "APPENDS" else self._pop(1)
            _expect(stack[-1], list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._to_mark() if name == "SETITEMS" else self._pop(2)
            keys = [_expect(key, str) for key in items[::2]]
            _expect(stack[-1], dict).update(zip(keys, items[1::2], strict=True))
        elif name == "BUILD":
            self._pop(1)  # attributes of an OrderedDict (`_metadata`): of no use to us
        elif name == "GLOBAL":
            stack.append(_allowed(argument))
        elif name == "STACK_GLOBAL":
            stack.append(_allowed(" ".join(_expect(part, str) for part in self._pop(2))))
        elif name == "BINPERSID":
            stack.append(_storage(*self._pop(1)))
        elif name == "REDUCE":
            function, arguments = self._pop(2)
            stack.append(_reduce(_expect(function, _Name), _expect(arguments, tuple)))
        else:
            raise _Refused(f"the pickle operation {name}")

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise IndexError("its stack runs empty")
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _to_mark(self) -> list[Any]:
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items


_LITERALS = frozenset(
    "BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8".split()
)
_MADE: dict[str, Any] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}


def _expect(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, found {type(value).__name__}")
    return value


def _allowed(name: str) -> _Name:
    if name not in _ALLOWED:
        raise _Refused(f'"{name.replace(" ", ".")}"')
    return _Name(name)


def _storage(identity: Any) -> _Storage:
    tag, kind, key, _, _ = _expect(identity, tuple)
    if tag != "storage" or _expect(kind, _Name).text not in _STORAGES:
        raise ValueError("a storage is not described as torch.save does it")
    return _Storage(_STORAGES[kind.text], _expect(key, str))


def _reduce(function: _Name, arguments: tuple[Any, ...]) -> Any:
    if function.text == _ORDERED:
        if arguments:
            raise ValueError("an OrderedDict is made from something")
        return {}
    if function.text == _PARAMETER:
        return _expect(arguments[0], _Tensor)
    if function.text != _REBUILD:
        raise _Refused(f'a call of "{function.text.replace(" ", ".")}"')
    storage, start, shape, strides = arguments[:4]
    few = are_sizes(_expect(shape, tuple)) and are_sizes(_expect(strides, tuple))
    if not few or not are_sizes([start]) or len(shape) != len(strides):
        raise ValueError("a tensor has an impossible shape")
    return _Tensor(_expect(storage, _Storage), start, shape, strides)
