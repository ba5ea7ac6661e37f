"""Where tensors lie in files, and reading rows of them. Knows no file format.

Rows come by positioned reads into fresh memory, so that a checkpoint is never mapped or held:
what a build keeps of 16 GB is what it asked for last.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from arkinfer.errors import CheckpointError


@dataclass(frozen=True)
class Slot:
    """A dense row-major tensor in a file: little-endian, `nbytes` from `offset` on."""

    file: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class SlotReader:
    """Reads slots; files are opened when first needed and stay open until `close`."""

    def __init__(self) -> None:
        self._open: dict[Path, int] = {}
        self._lock = Lock()

    def rows(self, slot: Slot, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows [start:stop) along the first axis, in the slot's dtype.

        Raises:
            CheckpointError: the file ends before its tensor does.
        """
        width = math.prod(slot.shape[1:]) * slot.dtype.itemsize
        data = self.bytes(slot.file, slot.offset + start * width, (stop - start) * width)
        return data.view(slot.dtype).reshape(stop - start, *slot.shape[1:])

    def bytes(self, file: Path, offset: int, count: int) -> npt.NDArray[np.uint8]:
        """`count` bytes of a file from `offset` on, as uint8."""
        data = np.empty(count, np.uint8)
        view, done = data.data, 0
        descriptor = self._descriptor(file)
        while done < count:
            got = os.preadv(descriptor, [view[done:]], offset + done)
            if got == 0:
                raise truncated(file, offset + count)
            done += got
        return data

    def close(self) -> None:
        with self._lock:
            for descriptor in self._open.values():
                os.close(descriptor)
            self._open.clear()

    def _descriptor(self, file: Path) -> int:
        with self._lock:
            if file not in self._open:
                self._open[file] = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            return self._open[file]


def truncated(file: Path, needed: int) -> CheckpointError:
    return CheckpointError(
        f"{file.name} is cut off",
        f"Its tensors need {needed:,} bytes, and it has {file.stat().st_size:,}",
        f"Download or copy {file.name} again.",
    )


def damaged(file: Path, why: str) -> CheckpointError:
    """For a file whose table of tensors contradicts itself or the file."""
    return CheckpointError(f"{file.name} is damaged", why, f"Download or copy {file.name} again.")
