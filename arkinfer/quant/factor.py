"""H = M D M^T with M unit upper triangular, in place: what GPTQ needs of a Hessian. Knows no
weights.

Of the n x n numbers no copy is made: the factor takes the upper triangle, and the lower one keeps
H until it has worked out. With the Cholesky factor U of H's inverse, H^-1 = U^T U, it is
U = D^-1/2 M^-1; so M says what GPTQ's updates by U say, and neither inverse is ever computed.
Source: Chee et al. 2023 (QuIP, arXiv 2307.13304), theorem 6: LDLQ is GPTQ.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from arkinfer.errors import InternalError

Matrix: TypeAlias = npt.NDArray[Any]

_PANEL = 256
"""Columns that are worked out at a time."""

_ROWS = 2048
"""Rows of a panel that one thread multiplies at a time; never by the number of threads, or other
threads would give other bytes."""

_GROWTH = 4.0
"""By how much the damping grows where it was too little."""


def factor(hessian: Matrix, damping: float, threads: int = 1) -> float:
    """Replaces H's strict upper triangle by M's; what is below is of no use after that.

    Args:
        hessian: [n, n], symmetric, float32 or float64; overwritten.
        damping: what the diagonal is raised by, as a share of its mean; it grows until the
            factor exists, so that a singular H is no failure.
        threads: that multiply; the bytes do not depend on them.

    Returns:
        The damping that was enough.

    Raises:
        InternalError: H is not finite.
    """
    diagonal = hessian.diagonal().copy()
    if not np.isfinite(diagonal).all():
        raise InternalError("a Hessian is not finite", "`Moments.finish` refuses such")
    mean = float(diagonal.mean(dtype=np.float64)) or 1.0
    with ThreadPoolExecutor(threads) as pool:
        while True:
            np.fill_diagonal(hessian, diagonal + diagonal.dtype.type(damping * mean))
            try:
                _cholesky(hessian, pool)
                break
            except np.linalg.LinAlgError:
                _restore(hessian)
                damping *= _GROWTH
    pivots = hessian.diagonal().copy()
    for start in range(0, len(hessian), _PANEL):
        hessian[start : start + _PANEL] /= pivots
    return damping


def _cholesky(a: Matrix, pool: ThreadPoolExecutor) -> None:
    """a = U U^T, U into the upper triangle; from the last column to the first.

    Raises:
        LinAlgError: a is not positive definite.
    """
    size = len(a)
    for start in reversed(range(0, size, _PANEL)):
        stop = min(start + _PANEL, size)
        corner, beside = a[start:stop, start:stop], a[start:stop, stop:]
        rest = np.triu(corner) + np.triu(corner, 1).T - beside @ beside.T
        upper = np.linalg.cholesky(rest[::-1, ::-1])[::-1, ::-1]
        if not np.isfinite(upper).all():
            raise np.linalg.LinAlgError
        corner[:] = upper + np.tril(corner, -1)
        undo = np.linalg.inv(upper).T

        def panel(
            first: int, start: int = start, stop: int = stop, beside: Matrix = beside,
            undo: Matrix = undo,
        ) -> None:  # fmt: skip
            rows = a[first : min(first + _ROWS, start)]
            rows[:, start:stop] -= rows[:, stop:] @ beside.T
            rows[:, start:stop] = rows[:, start:stop] @ undo

        list(pool.map(panel, range(0, start, _ROWS)))


def _restore(a: Matrix) -> None:
    """The upper triangle from the lower one."""
    for start in range(0, len(a), _PANEL):
        rows = slice(start, start + _PANEL)
        corner = np.tril(a[rows, rows], -1)
        a[rows, rows.stop :] = a[rows.stop :, rows].T
        np.fill_diagonal(corner, a[rows, rows].diagonal() / 2)
        a[rows, rows] = corner + corner.T
