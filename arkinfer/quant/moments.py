"""What calibrated methods keep of a matrix's inputs: second moments and magnitudes. Knows no model.

Of any number of tokens this is one square matrix and one row, and it answers what a method asks:
tr(D H D^T) is the squared error of the outputs when the weights are off by D.
"""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any

import numpy as np
import numpy.typing as npt

from arkinfer.errors import CheckpointError

_TILE = 512
"""Rows and columns of H that are summed at a time; never by the number of threads, or other
threads would give other bytes."""


class Moments:
    """Of K inputs.

    Args:
        inputs: K.

    Attributes:
        hessian: float32 [K, K]: sum of x x^T; whole after `finish`.
        count: how many x there were.
    """

    def __init__(self, inputs: int) -> None:
        self.hessian = np.zeros((inputs, inputs), np.float32)
        self.count = 0
        self._magnitude = np.zeros(inputs, np.float64)

    @property
    def magnitude(self) -> npt.NDArray[np.float32]:
        """Mean |x| of each input, [K]; 0 where nothing was seen."""
        return (self._magnitude / max(self.count, 1)).astype(np.float32)

    def add(self, x: npt.NDArray[np.float32], pool: Executor) -> None:
        """Inputs of some tokens, [tokens, K], contiguous; BLAS on one thread, `pool` has more."""
        size = x.shape[1]
        starts = range(0, size, _TILE)
        tiles = [(row, column) for row in starts for column in starts if row <= column]
        self.count += len(x)
        self._magnitude += np.abs(x).sum(axis=0, dtype=np.float64)

        def tile(place: tuple[int, int]) -> None:
            row, column = (slice(start, start + _TILE) for start in place)
            self.hessian[row, column] += x[:, row].T @ x[:, column]

        list(pool.map(tile, tiles))

    def finish(self) -> Moments:
        """Fills the lower triangle; no more may be added. Itself.

        Raises:
            CheckpointError: inputs were not finite, or overflow when they are squared.
        """
        if not (np.isfinite(self._magnitude).all() and np.isfinite(self.hessian.diagonal()).all()):
            raise CheckpointError(
                "The activations of the calibration text are not finite",
                "The model computes infinities or not-a-numbers from it",
                "Check the checkpoint: it may be damaged, or its training diverged",
            )
        for start in range(0, len(self.hessian), _TILE):
            rows = slice(start, start + _TILE)
            self.hessian[rows.stop :, rows] = self.hessian[rows, rows.stop :].T
        return self


def output_error(difference: npt.NDArray[Any], hessian: npt.NDArray[Any]) -> float:
    """||D X||^2 of weights that are off by D [n, K]: tr(D H D^T)."""
    return float(np.einsum("nk,nk->", difference @ hessian, difference, dtype=np.float64))
