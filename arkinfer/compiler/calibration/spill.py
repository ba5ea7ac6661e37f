"""A file for numbers that need not be in memory: written and read by pieces, gone when its owner
is. Knows no numbers.

It is not mapped: mapped pages would count as this process's memory.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

import numpy as np
import numpy.typing as npt

from arkinfer.errors import ResourceError


class SpillFile:
    """A file without a name, of this process alone, in the folder for temporary files."""

    def __init__(self) -> None:
        file, path = tempfile.mkstemp(prefix="arkinfer-")
        os.unlink(path)
        self._file = file

    def write(self, place: int, array: npt.NDArray[Any]) -> int:
        """Writes an array at a byte offset; how many bytes that were.

        Raises:
            ResourceError: the disk is full.
        """
        data, done = _bytes(np.ascontiguousarray(array)), 0
        try:
            while done < len(data):
                done += os.pwrite(self._file, data[done:], place + done)
        except OSError as error:
            raise ResourceError(
                "What calibration computes cannot be kept in the folder for temporary files",
                os.strerror(error.errno or 0),
                "Free some space there, set TMPDIR to a folder on another disk, or use fewer "
                "sequences (--calib-samples)",
            ) from None
        return done

    def read(self, place: int, into: npt.NDArray[Any]) -> None:
        """Fills a contiguous array with what was written at a byte offset."""
        data, done = _bytes(into), 0
        while done < len(data):
            got = os.preadv(self._file, [data[done:]], place + done)
            if not got:
                raise ResourceError(
                    "A temporary file has lost what was written to it",
                    "Its disk may be failing",
                    "Set TMPDIR to a folder on another disk",
                )
            done += got

    def close(self) -> None:
        """Frees its space; may be called again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _bytes(array: npt.NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
