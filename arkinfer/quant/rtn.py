"""Round-to-nearest with clip search: data-free, each group for itself. Knows no calibration.

A symmetric group is written as scale * code with integer codes; among clipping ranges c * max|w|
the one with the smallest squared error is kept. For given codes q the best scale is <w, q> / <q, q>
and the error |w|^2 - <w, q>^2 / <q, q>, so a range is judged by two dot products.
Source: AWQ (Lin et al. 2023, section 4: weight clipping); the least-squares scale is Banner et
al. 2018's idea of matching the reconstruction.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from arkinfer.errors import CheckpointError
from arkinfer.packing import QuantizedTensor, Scheme, encode

Float: TypeAlias = npt.NDArray[np.float32]
Codes: TypeAlias = npt.NDArray[np.uint8]

SHRINKS = (1.0, 0.95, 0.9, 0.86, 0.82, 0.78, 0.74, 0.7)
"""Clipping ranges that are tried, as fractions of the group's own."""

_BLOCK = 1 << 18  # elements worked on at a time by one thread: 1 MiB of float32


def round_to_nearest(
    matrix: npt.NDArray[Any], scheme: Scheme, *, clip: bool = True
) -> QuantizedTensor:
    """Quantizes a matrix [N, K] of any float dtype; rows are independent of each other.

    Args:
        matrix: finite numbers.
        scheme: offset "none" or "zero", without act_order.
        clip: search the clipping range where it pays: below 8 bits.

    Raises:
        UnsupportedError: the scheme's group does not divide K.
        CheckpointError: the matrix has numbers that are not finite.
    """
    rows, columns = matrix.shape
    size = scheme.group_size(columns)
    step = max(1, _BLOCK // columns)
    shrinks = SHRINKS if clip and scheme.bits < 8 else SHRINKS[:1]

    def block(start: int) -> QuantizedTensor:
        part = matrix[start : start + step].astype(np.float32)
        groups = part.reshape(-1, columns // size, size)
        if scheme.offset == "zero":
            return _asymmetric(groups, scheme, shrinks)
        return _symmetric(groups, scheme, shrinks)

    starts = range(0, rows, step)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        return QuantizedTensor.concatenate(list(pool.map(block, starts)))


def _symmetric(w: Float, scheme: Scheme, shrinks: tuple[float, ...]) -> QuantizedTensor:
    """w [n, groups, g]; codes -2^(b-1) … 2^(b-1) - 1, a positive scale."""
    high = scheme.midpoint - 1
    low = -scheme.midpoint if len(shrinks) > 1 else -high
    largest = _finite(np.abs(w).max(axis=-1))
    best = _Best(w.shape)
    q = np.empty_like(w)
    for shrink in shrinks:
        step = largest * np.float32(shrink / high)
        np.multiply(w, _inverse(step)[..., None], out=q)
        np.rint(q, out=q)
        np.clip(q, low, high, out=q)
        best.offer(w, q)
    if not len(shrinks) > 1:
        best.scale = (largest / np.float32(high)).astype(
            np.float32
        )  # the range itself: every value is representable
    codes = (best.codes + np.float32(scheme.midpoint)).astype(np.uint8)
    return encode(scheme, codes, best.scale)


def _asymmetric(w: Float, scheme: Scheme, shrinks: tuple[float, ...]) -> QuantizedTensor:
    """w [n, groups, g]; codes 0 … 2^b - 1 around an integer zero point."""
    top = np.float32((1 << scheme.bits) - 1)
    low, high = np.minimum(_finite(w.min(axis=-1)), 0), np.maximum(_finite(w.max(axis=-1)), 0)
    best = _Best(w.shape)
    zeros = np.zeros(low.shape, np.float32)
    q = np.empty_like(w)
    for shrink in shrinks:
        step = ((high - low) * np.float32(shrink) / top).astype(np.float32)
        inverse = _inverse(step)
        zero = np.clip(np.rint(-low * np.float32(shrink) * inverse), 0, top)[..., None]
        np.multiply(w, inverse[..., None], out=q)
        np.rint(q, out=q)
        np.clip(q, -zero, top - zero, out=q)
        better = best.offer(w, q)
        zeros[better] = zero[..., 0][better]
    codes = (best.codes + zeros[..., None]).astype(np.uint8)
    return encode(scheme, codes, best.scale, zero=zeros.astype(np.uint8))


class _Best:
    """The codes and scales with the smallest squared error so far, group by group."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.codes = np.zeros(shape, np.float32)
        self.scale = np.zeros(shape[:-1], np.float32)
        self._gain = np.full(shape[:-1], -1, np.float32)

    def offer(self, w: Float, q: Float) -> npt.NDArray[np.bool_]:
        """Where these codes are better than all before, bool [n, groups]."""
        overlap = np.einsum("ngk,ngk->ng", w, q)
        norm = np.einsum("ngk,ngk->ng", q, q)
        scale = overlap * _inverse(norm)
        better = (gain := overlap * scale) > self._gain
        np.copyto(self.codes, q, where=better[..., None])
        np.copyto(self.scale, scale, where=better)
        np.copyto(self._gain, gain, where=better)
        return better


def _inverse(x: Float) -> Float:
    """1 / x, and 0 where x is 0."""
    return np.divide(np.float32(1), x, out=np.zeros_like(x), where=x > 0)


def _finite(x: Float) -> Float:
    if not np.isfinite(x).all():
        raise CheckpointError(
            "A weight holds numbers that are not finite",
            "They cannot be quantized, and the model would answer with garbage",
            "Check the checkpoint: it may be damaged, or its training diverged",
        )
    return x
