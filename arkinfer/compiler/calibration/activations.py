"""Activations of all sequences at one place of a model, in memory or in a file. Knows no model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from arkinfer.compiler.calibration.spill import SpillFile

LIMIT = 768 << 20
"""Bytes of all activations that stay in memory."""

BATCH = 4096
"""Tokens whose activations are summed at a time, about."""


class Activations:
    """float32 [sequences, tokens, width].

    Args:
        shape: sequences, tokens, width.
        file: where they are; None: in memory.
    """

    def __init__(self, shape: tuple[int, int, int], file: SpillFile | None) -> None:
        self.shape = shape
        self._memory = np.zeros(shape, np.float32) if file is None else None
        self._file = file
        self._row = shape[1] * shape[2] * 4

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self._row

    def read(self, sequence: int) -> npt.NDArray[np.float32]:
        """[tokens, width]; not to be changed."""
        if self._memory is not None:
            return self._memory[sequence]
        rows = np.empty(self.shape[1:], np.float32)
        if self._file is not None:
            self._file.read(sequence * self._row, rows)
        return rows

    def write(self, sequence: int, rows: npt.NDArray[np.float32]) -> None:
        """Keeps [tokens, width].

        Raises:
            ResourceError: the disk is full.
        """
        if self._memory is not None:
            self._memory[sequence] = rows
        elif self._file is not None:
            self._file.write(sequence * self._row, rows)

    def close(self) -> None:
        """Frees what it holds; may be called again."""
        self._memory = None
        if self._file is not None:
            self._file.close()


class Shelf:
    """Makes `Activations`: in memory as long as the limit allows, then in files.

    A context manager that closes them all.

    Args:
        limit: bytes that may stay in memory.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._left = limit
        self._made: list[Activations] = []

    def place(self, shape: tuple[int, int, int]) -> Activations:
        """Room for activations [sequences, tokens, width]; their numbers are not yet known."""
        size = shape[0] * shape[1] * shape[2] * 4
        inside = size <= self._left
        self._left -= size if inside else 0
        self._made.append(Activations(shape, None if inside else SpillFile()))
        return self._made[-1]

    def __enter__(self) -> Shelf:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._made:
            each.close()
