"""The best scale of every group, and zero point: the search that all methods share. Knows no
calibration.

A symmetric group is written as scale * code with integer codes; among clipping ranges c * max|w|
the one that loses least is kept. For given codes q the best scale is <w, q> / <q, q> and the error
|w|^2 - <w, q>^2 / <q, q>, so a range is judged by two dot products. Their metric is the identity
unless a calibrated method brings another: <a, b> = a^T M b.
Source: AWQ (Lin et al. 2023, section 4: weight clipping); the least-squares scale is Banner et
al. 2018's idea of matching the reconstruction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from arkinfer.errors import CheckpointError
from arkinfer.packing import QuantizedTensor, Scheme, encode

Float: TypeAlias = npt.NDArray[np.float32]

Metric: TypeAlias = Callable[[Float], Float]
"""x [n, groups, g] -> M x, group by group; M symmetric and positive semidefinite."""

SHRINKS = (1.0, 0.95, 0.9, 0.86, 0.82, 0.78, 0.74, 0.7)
"""Clipping ranges that are tried, as fractions of the group's own."""


@dataclass(frozen=True)
class Grid:
    """Codes around zero, and what makes numbers of them: scale * codes.

    Attributes:
        codes: whole numbers in float32 [n, groups, g].
        scale: float32 [n, groups], not negative.
        zero: float32 [n, groups]; None where the scheme has no offset.
    """

    codes: Float
    scale: Float
    zero: Float | None

    def encode(self, scheme: Scheme) -> QuantizedTensor:
        """In the canonical form."""
        if self.zero is None:
            codes = (self.codes + np.float32(scheme.midpoint)).astype(np.uint8)
            return encode(scheme, codes, self.scale)
        codes = (self.codes + self.zero[..., None]).astype(np.uint8)
        return encode(scheme, codes, self.scale, zero=self.zero.astype(np.uint8))


def identity(x: Float) -> Float:
    """The metric of plain squared errors."""
    return x


def shrinks_for(scheme: Scheme, clip: bool) -> tuple[float, ...]:
    """The ranges worth a try: with 8 bits clipping does not pay."""
    return SHRINKS if clip and scheme.bits < 8 else SHRINKS[:1]


def best_grid(
    w: Float, scheme: Scheme, shrinks: tuple[float, ...] = SHRINKS, metric: Metric = identity
) -> Grid:
    """The codes and scales of groups w [n, groups, g] that lose least.

    Args:
        w: finite numbers.
        scheme: offset "none" or "zero".
        shrinks: ranges to try; of one alone, the range itself is the scale (absmax, min-max).
        metric: of the errors.

    Raises:
        CheckpointError: there are numbers that are not finite.
    """
    if scheme.offset == "zero":
        return _asymmetric(w, scheme, shrinks, metric)
    return _symmetric(w, scheme, shrinks, metric)


def _symmetric(w: Float, scheme: Scheme, shrinks: tuple[float, ...], metric: Metric) -> Grid:
    """Codes -2^(b-1) … 2^(b-1) - 1, a positive scale."""
    high = scheme.midpoint - 1
    low = -scheme.midpoint if len(shrinks) > 1 else -high
    largest = finite(np.abs(w).max(axis=-1))
    best = _Best(w, metric)
    q = np.empty_like(w)
    for shrink in shrinks:
        step = largest * np.float32(shrink / high)
        np.multiply(w, inverse(step)[..., None], out=q)
        np.rint(q, out=q)
        np.clip(q, low, high, out=q)
        best.offer(q)
    if not len(shrinks) > 1:
        best.scale = (largest / np.float32(high)).astype(
            np.float32
        )  # the range itself: every value is representable
    return Grid(best.codes, best.scale, None)


def _asymmetric(w: Float, scheme: Scheme, shrinks: tuple[float, ...], metric: Metric) -> Grid:
    """Codes 0 … 2^b - 1 around an integer zero point."""
    top = np.float32((1 << scheme.bits) - 1)
    low, high = np.minimum(finite(w.min(axis=-1)), 0), np.maximum(finite(w.max(axis=-1)), 0)
    best = _Best(w, metric)
    zeros = np.zeros(low.shape, np.float32)
    q = np.empty_like(w)
    for shrink in shrinks:
        step = ((high - low) * np.float32(shrink) / top).astype(np.float32)
        inverted = inverse(step)
        zero = np.clip(np.rint(-low * np.float32(shrink) * inverted), 0, top)[..., None]
        np.multiply(w, inverted[..., None], out=q)
        np.rint(q, out=q)
        np.clip(q, -zero, top - zero, out=q)
        better = best.offer(q)
        zeros[better] = zero[..., 0][better]
    return Grid(best.codes, best.scale, zeros)


class _Best:
    """The codes and scales with the smallest error so far, group by group."""

    def __init__(self, w: Float, metric: Metric) -> None:
        self.codes = np.zeros(w.shape, np.float32)
        self.scale = np.zeros(w.shape[:-1], np.float32)
        self._gain = np.full(w.shape[:-1], -1, np.float32)
        self._w, self._metric = w, metric

    def offer(self, q: Float) -> npt.NDArray[np.bool_]:
        """Where these codes are better than all before, bool [n, groups]."""
        weighed = self._metric(q)
        overlap = np.einsum("ngk,ngk->ng", self._w, weighed)
        norm = np.einsum("ngk,ngk->ng", q, weighed)
        scale = overlap * inverse(norm)
        better = (gain := overlap * scale) > self._gain
        if self._metric is not identity:
            better &= scale >= 0  # inputs that cancel each other may ask for a negative one
        np.copyto(self.codes, q, where=better[..., None])
        np.copyto(self.scale, scale, where=better)
        np.copyto(self._gain, gain, where=better)
        return better


def eleven_bits(x: Float) -> Float:
    """x to the 11 significant bits that float16 has, but in float32's range.

    Calibrated scales are such numbers before any code is chosen, so that formats with scales in
    float16 hold what a build holds, bit by bit.
    """
    bits = x.view(np.uint32)
    even = (bits >> np.uint32(13)) & np.uint32(1)
    return ((bits + np.uint32(0x0FFF) + even) & np.uint32(0xFFFFE000)).view(np.float32)


def inverse(x: Float) -> Float:
    """1 / x, and 0 where x is 0."""
    return np.divide(np.float32(1), x, out=np.zeros_like(x), where=x > 0)


def finite(x: Float) -> Float:
    """x itself.

    Raises:
        CheckpointError: it has numbers that are not finite.
    """
    if not np.isfinite(x).all():
        raise CheckpointError(
            "A weight holds numbers that are not finite",
            "They cannot be quantized, and the model would answer with garbage",
            "Check the checkpoint: it may be damaged, or its training diverged",
        )
    return x
