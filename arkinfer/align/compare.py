"""How far two tensors are apart, and where. Knows no tolerance and no stage."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Statistics:
    """One tensor. Of what is finite in it: least, largest, mean, root mean square.

    Attributes:
        shape: its dimensions.
        nonfinite: the share of elements that are infinite or not a number.
    """

    shape: tuple[int, ...]
    min: float
    max: float
    mean: float
    rms: float
    nonfinite: float

    @classmethod
    def of(cls, array: Array) -> Statistics:
        finite = array[np.isfinite(array)]
        if not finite.size:
            nan = math.nan
            return cls(array.shape, nan, nan, nan, nan, 1.0 if array.size else 0.0)
        rms = _rms(finite)
        ends = float(finite.min()), float(finite.max())
        return cls(array.shape, *ends, float(finite.mean()), rms, 1 - finite.size / array.size)


@dataclass(frozen=True)
class Difference:
    """What was found beside what was expected.

    Attributes:
        expected, found: each tensor for itself.
        relative: rms(found - expected) / rms(expected).
        channel: index along the last axis whose error is the largest; -1: there is no such axis.
        channel_relative: that channel's rms error, over its rms or, where that is smaller, over
            the tensor's.
        nonfinite: the share of elements that are not finite in one of them, and not the same.
        worst: index of the element with the largest error.
        worst_expected, worst_found: that element.
    """

    expected: Statistics
    found: Statistics
    relative: float
    channel: int
    channel_relative: float
    nonfinite: float
    worst: tuple[int, ...]
    worst_expected: float
    worst_found: float

    def to_json(self) -> dict[str, Any]:
        """Plain values; numbers that are not finite as text."""
        return plain(asdict(self))


def compare(found: Array, expected: Array) -> Difference:
    """Compares two arrays of one shape; integers and truth values as numbers.

    Of different shapes, all is wrong: the errors are infinite.
    """
    a, b = found.astype(np.float64), expected.astype(np.float64)
    ours, theirs = Statistics.of(b), Statistics.of(a)
    if a.shape != b.shape:
        return Difference(ours, theirs, math.inf, -1, math.inf, 1.0, (), math.nan, math.nan)
    if not a.size:
        return Difference(ours, theirs, 0.0, -1, 0.0, 0.0, (), math.nan, math.nan)
    odd = ~(np.isfinite(a) & np.isfinite(b))
    wrong = odd & ~((a == b) | (np.isnan(a) & np.isnan(b)))
    with np.errstate(invalid="ignore"):
        error = np.where(odd, 0.0, a - b)
    scale = np.where(np.isfinite(b), b, 0.0)
    size = _rms(scale)
    channel, channel_relative = _worst_channel(error, scale, size)
    worst = np.unravel_index(int(np.argmax(np.where(wrong, np.inf, np.abs(error)))), a.shape)
    index = tuple(int(i) for i in worst)
    return Difference(
        ours,
        theirs,
        _ratio(_rms(error), size),
        channel,
        channel_relative,
        float(wrong.mean()),
        index,
        float(b[index]),
        float(a[index]),
    )


def relative_error(found: Array, expected: Array) -> float:
    """rms(found - expected) / rms(expected)."""
    wide = expected.astype(np.float64)
    return _ratio(_rms(found.astype(np.float64) - wide), _rms(wide))


def plain(value: Any) -> Any:
    """The same in what JSON has: lists, and "inf", "-inf" and "nan" as text."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- Any goes in, Any comes out
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType] -- as above
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _worst_channel(error: Array, expected: Array, size: float) -> tuple[int, float]:
    if error.ndim < 2:
        return -1, _ratio(_rms(error), size)
    flat, wanted = (x.reshape(-1, x.shape[-1]) for x in (error, expected))
    own = np.sqrt(np.mean(wanted * wanted, axis=0))
    apart = np.sqrt(np.mean(flat * flat, axis=0))
    floor = np.maximum(own, size)
    ratios = np.divide(apart, floor, out=np.where(apart > 0, np.inf, 0.0), where=floor > 0)
    worst = int(np.argmax(ratios))
    return worst, float(ratios[worst])


def _rms(x: Array) -> float:
    return math.sqrt(float(np.mean(x * x)))


def _ratio(error: float, size: float) -> float:
    if size > 0:
        return error / size
    return math.inf if error > 0 else 0.0
