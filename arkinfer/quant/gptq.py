"""GPTQ: rounds input by input, and lets the inputs that are left make good each error. Knows no
model; the second moments of the inputs are all that it sees of the data.

For one matrix W [N, K] with inputs x it looks for codes with a small ||(W - Q) X||^2, which is
tr((W - Q) H (W - Q)^T), H = X X^T. Inputs are rounded one after the other; each error is spread
over those not yet rounded, the best way that they allow. That is worked off in blocks, within
which errors go from column to column, and between which they go by one product.
P-GPTQ is the same with an H that leaves out the first positions of each sequence.
Source: Frantar et al. 2022 (arXiv 2210.17323); group scales, act_order and static groups as in its
published code; P-GPTQ: MiniCPM4 technical report (arXiv 2506.07900), section 4.1.2.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from arkinfer.packing import QuantizedTensor, Scheme, encode
from arkinfer.quant.factor import Matrix, factor
from arkinfer.quant.scales import best_grid, eleven_bits, finite, inverse, shrinks_for

DAMPING = 0.01
"""Share of the mean of H's diagonal that is added to the diagonal."""

_COLUMNS = 128
"""Inputs of a block, unless a group is larger."""

_ROWS = 1024
"""Rows that one thread works on at a time; rows are independent of each other."""


@dataclass(frozen=True, eq=False)
class Feedback:
    """How errors of inputs reach the inputs after them; one for all matrices with these inputs.

    Attributes:
        factor: [K, K], float32 or float64: the arithmetic of all that uses it. Its strict upper
            triangle counts: M of H = M D M^T.
        order: int32 [K]; column i of `factor` is the input order[i]. None: inputs in their order.
        damping: the share of the mean of H's diagonal that was added to it.
    """

    factor: Matrix
    order: npt.NDArray[np.int32] | None
    damping: float


def feedback(
    hessian: Matrix, *, act_order: bool = False, damping: float = DAMPING, threads: int = 1
) -> Feedback:
    """Factorizes the second moments of a matrix's inputs.

    Args:
        hessian: [K, K], symmetric, float32 or float64; overwritten. An input that was always 0
            is no harm: it is rounded by itself.
        act_order: round the inputs with the largest moments first.
        damping: the least; see `arkinfer.quant.factor`.
        threads: that multiply.
    """
    order = None
    if act_order:
        order = np.argsort(-hessian.diagonal(), kind="stable").astype(np.int32)
        hessian[:] = hessian[order]
        for start in range(0, len(order), _ROWS):
            rows = hessian[start : start + _ROWS]
            rows[:] = rows[:, order]
    return Feedback(hessian, order, factor(hessian, damping, threads))


def gptq(
    matrix: npt.NDArray[Any],
    feedback: Feedback,
    scheme: Scheme,
    *,
    static_groups: bool = False,
    clip: bool = True,
    threads: int = 1,
) -> QuantizedTensor:
    """Quantizes a matrix [N, K] of any float dtype.

    The bytes repeat whatever `threads` is if BLAS runs on one thread of its own.

    Args:
        matrix: finite numbers.
        feedback: of its inputs.
        scheme: offset "none" or "zero"; act_order is decided by `feedback` and `static_groups`.
        static_groups: scales from the matrix as it is, not from what errors have made of it when
            a group's turn comes. Groups are then of neighbours even where the inputs are taken
            in another order, so that the result needs no `order`.
        clip: search the clipping range, as round-to-nearest does.
        threads: that work on rows.

    Raises:
        UnsupportedError: the scheme's group does not divide K.
        CheckpointError: the matrix has numbers that are not finite.
    """
    size = scheme.group_size(matrix.shape[1])
    static = static_groups or size == matrix.shape[1]
    scheme = replace(scheme, act_order=feedback.order is not None and not static)
    rounding = _Rounding(feedback, scheme, size, static, shrinks_for(scheme, clip))
    tiles = [matrix[start : start + _ROWS] for start in range(0, len(matrix), _ROWS)]
    with ThreadPoolExecutor(threads) as pool:
        return QuantizedTensor.concatenate(list(pool.map(rounding.rows, tiles)))


@dataclass(frozen=True, eq=False)
class _Rounding:
    """How each tile of rows is rounded; the inputs stand in the order of `feedback`."""

    feedback: Feedback
    scheme: Scheme
    size: int
    static: bool
    shrinks: tuple[float, ...]

    def rows(self, matrix: npt.NDArray[Any]) -> QuantizedTensor:
        """Some rows of a matrix [n, K]."""
        w = finite(matrix.astype(np.float32))
        m, order = self.feedback.factor, self.feedback.order
        columns = w.shape[1]
        grids = _Grids(self.scheme, len(w), columns // self.size, self.shrinks)
        if self.static:
            grids.find(slice(None), w.reshape(len(w), -1, self.size))
        home = np.arange(columns) if order is None or not self.static else order
        home = home // self.size  # of each input, in turn, the group
        lost = np.ascontiguousarray(w.T if order is None else w.T[order]).astype(m.dtype)
        codes = np.empty(lost.shape, np.float32)
        for start, stop in _blocks(columns, _COLUMNS if self.static else self.size):
            corner = np.triu(m[start:stop, start:stop], 1)
            np.fill_diagonal(corner, 1)
            spread = np.linalg.inv(corner)
            current = lost[start:stop] + spread.T @ (m[:start, start:stop].T @ lost[:start])
            for i in range(stop - start):
                column = start + i
                if not self.static and column % self.size == 0:
                    group = np.ascontiguousarray(current[i : i + self.size].T, np.float32)
                    grids.find(slice(home[column], home[column] + 1), group[:, None])
                codes[column], value = grids.round(home[column], current[i])
                lost[column] -= value
                current[i + 1 :] -= spread[i, i + 1 :, None] * (current[i] - value)
        if order is not None and self.static:
            codes[order] = codes.copy()
        return grids.encode(codes, None if self.static else order)


def _blocks(columns: int, group: int) -> list[tuple[int, int]]:
    """Whole groups, about `_COLUMNS` inputs."""
    step = max(group, _COLUMNS // group * group)
    return [(start, min(start + step, columns)) for start in range(0, columns, step)]


class _Grids:
    """Scales and zero points of a tile, [groups, n], as they become known."""

    def __init__(self, scheme: Scheme, rows: int, groups: int, shrinks: tuple[float, ...]) -> None:
        self._scheme, self._shrinks = scheme, shrinks
        self._scale = np.zeros((groups, rows), np.float32)
        self._inverse = np.zeros((groups, rows), np.float32)
        self._zero = np.full((groups, rows), scheme.midpoint, np.float32)

    def find(self, groups: slice, w: npt.NDArray[np.float32]) -> None:
        """The grids of some groups, from their weights float32 [n, groups, g]."""
        grid = best_grid(w, self._scheme, self._shrinks)
        scale = eleven_bits(grid.scale).T
        self._scale[groups] = scale
        self._inverse[groups] = inverse(scale)
        if grid.zero is not None:
            self._zero[groups] = grid.zero.T

    def round(self, group: int, values: Matrix) -> tuple[Matrix, Matrix]:
        """One input's numbers [n] -> their codes, unsigned, and what the codes stand for."""
        zero = self._zero[group]
        codes = np.rint(values * self._inverse[group]) + zero
        np.clip(codes, 0, (1 << self._scheme.bits) - 1, out=codes)
        return codes, (codes - zero).astype(np.float32) * self._scale[group]

    def encode(
        self, codes: npt.NDArray[np.float32], order: npt.NDArray[np.int32] | None
    ) -> QuantizedTensor:
        """In the canonical form, from all codes [K, n]."""
        groups, rows = self._scale.shape
        zero = self._zero.T.astype(np.uint8) if self._scheme.offset == "zero" else None
        return encode(
            self._scheme,
            codes.T.astype(np.uint8).reshape(rows, groups, -1),
            np.ascontiguousarray(self._scale.T),
            zero=zero,
            order=order,
        )
