"""Writes a .safetensors file, one piece of a tensor at a time. Knows no model.

Source: the safetensors format: u64 header size, JSON header, then data without gaps.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from arkinfer.errors import InternalError

_CODES = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int8": "I8",
}


@dataclass(frozen=True)
class Entry:
    """A tensor to write; `blocks` gives its rows, from the first to the last."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    blocks: Callable[[], Iterable[npt.NDArray[Any]]]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write_safetensors(
    file: Path, entries: Sequence[Entry], on_part: Callable[[int, int], None]
) -> None:
    """Writes a file; it is on the disk when this returns.

    Args:
        file: which; it must not exist.
        entries: in the order in which they are to lie there.
        on_part: told how many of how many are written.

    Raises:
        InternalError: blocks that do not make up their tensor.
        OSError: the file cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in entries:
        place = [offset, offset + entry.nbytes]
        code = _CODES[entry.dtype.name]
        header[entry.name] = {"dtype": code, "shape": list(entry.shape), "data_offsets": place}
        offset += entry.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("xb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for done, entry in enumerate(entries):
            on_part(done, len(entries))
            _write(out.write, entry)
        on_part(len(entries), len(entries))
        out.flush()
        os.fsync(out.fileno())


def _write(write: Callable[[Any], object], entry: Entry) -> None:
    left = entry.nbytes
    for block in entry.blocks():
        if block.dtype != entry.dtype:
            raise InternalError(f"{entry.name} is {entry.dtype}, but came as {block.dtype}")
        data = np.ascontiguousarray(block).reshape(-1).view(np.uint8)
        left -= data.nbytes
        write(data.data)
    if left:
        raise InternalError(f"{entry.name} came with {-left:,} bytes too many")
