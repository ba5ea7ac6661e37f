"""The table of tensors of a .safetensors file. Knows neither models nor configs.

Source: the safetensors format: u64 header size, JSON header, then data without gaps or overlaps.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import ml_dtypes
import numpy as np

from arkinfer.errors import CheckpointError
from arkinfer.frontend.slots import Slot, damaged, truncated
from arkinfer.limits import JSON_BYTES, LimitError, are_sizes, parse_json

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


def read_table(file: Path) -> dict[str, Slot]:
    """Every tensor of the file by name.

    Raises:
        CheckpointError: the header cannot be read, or contradicts itself or the file's size.
    """
    size = file.stat().st_size
    with file.open("rb") as source:
        length = int.from_bytes(source.read(8), "little")
        if size < 8 or length > min(size - 8, JSON_BYTES):
            raise _no_header(file, size, length)
        header = _header(file, source.read(length))
    data = 8 + length
    table = {name: _slot(file, name, entry, data) for name, entry in header.items()}
    end = data
    for slot in sorted(table.values(), key=lambda slot: (slot.offset, slot.nbytes)):
        if slot.offset != end:
            kind = "overlap" if slot.offset < end else "leave a gap"
            raise damaged(file, f"Its tensors {kind} at byte {min(slot.offset, end):,}")
        end += slot.nbytes
    if end > size:
        raise truncated(file, end)
    if end < size:
        raise damaged(file, f"It has {size - end:,} bytes after its last tensor")
    return table


def _no_header(file: Path, size: int, length: int) -> CheckpointError:
    with file.open("rb") as source:
        if source.read(7) == b"version":
            return CheckpointError(
                f"{file.name} is a Git LFS pointer, not the weights",
                "The repository was cloned without its large files",
                "Run `git lfs pull` in the checkpoint's folder.",
            )
    if length <= JSON_BYTES and size > 8:
        return truncated(file, 8 + length)
    return damaged(file, "It does not begin with a safetensors header")


def _header(file: Path, text: bytes) -> dict[str, Any]:
    try:
        header = parse_json(text)
    except LimitError as error:
        raise damaged(file, f"Its header cannot be read: {error}") from error
    if not isinstance(header, dict):
        raise damaged(file, "Its header is not a JSON object")
    header = cast("dict[str, Any]", header)
    header.pop("__metadata__", None)
    return header


def _slot(file: Path, name: str, entry: Any, data: int) -> Slot:
    try:
        code, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        whole = are_sizes([*shape]) and isinstance(shape, list) and are_sizes([begin, end])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(file, f"Its header describes {name} incompletely") from error
    if not isinstance(code, str) or code not in _DTYPES:
        raise damaged(file, f"{name} is of the unknown dtype {code!r}")
    if not whole or end - begin != math.prod(shape) * _DTYPES[code].itemsize:
        raise damaged(file, f"The size of {name} is not that of {code} {shape}")
    return Slot(file, data + begin, _DTYPES[code], tuple(shape))
