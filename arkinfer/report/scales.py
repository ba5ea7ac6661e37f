"""Where values lie on an axis, and which of them are written beside it. Knows no picture."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 5.0)
_EXPONENT = re.compile(r"e([+-])0*(\d+)")


@dataclass(frozen=True)
class Scale:
    """An axis: its range, and the values that get a label.

    Attributes:
        low: the value at its beginning.
        high: the value at its end, above `low`.
        ticks: values to label, rising, within the range.
        log: whether equal ratios are equally far apart.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies: 0 at `low`, 1 at `high`."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(at)
        return (at - low) / (high - low)

    def shows(self, value: float) -> bool:
        """Whether a value has a place: finite, and positive where the axis is logarithmic."""
        return math.isfinite(value) and (value > 0 or not self.log)


def scale(
    values: Iterable[float], *, log: bool = False, zero: bool = False, most: int = 6
) -> Scale:
    """The scale that shows all values that can be shown, with round numbers beside it.

    Args:
        values: what will be drawn; NaN and infinities are passed over.
        log: a logarithmic axis, on which only positive values can be shown.
        zero: a linear axis begins (or ends) at 0, so that lengths can be compared.
        most: about how many ticks there may be.
    """
    shown = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    low, high = (min(shown), max(shown)) if shown else ((1.0, 10.0) if log else (0.0, 1.0))
    if log:
        return _logarithmic(low, high, most)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 1e-12 * max(abs(low), abs(high)):  # one value, or rounding errors of one
        pad = abs(low) / 2 or 1.0
        low, high = low - pad * (low != 0), high + pad
    step = _step((high - low) / most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(_clean(n * step) for n in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], ticks)


def scale_at(values: Iterable[float], *, log: bool = False, most: int = 10) -> Scale:
    """As `scale`; where the values themselves are few, they and no others are beside it."""
    shown = sorted({v for v in values if math.isfinite(v) and (v > 0 or not log)})
    if 2 <= len(shown) <= most:
        return Scale(shown[0], shown[-1], tuple(shown), log)
    return scale(shown, log=log)


def _step(least: float) -> float:
    """The smallest of 1, 2, 5, 10 … times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(n * power for n in (*_STEPS, 10.0) if n * power >= least * (1 - 1e-9))


def _logarithmic(low: float, high: float, most: int) -> Scale:
    if high / low < 1.2:
        low, high = low / 1.5, high * 1.5
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps in (_STEPS, (1.0, 3.0), (1.0,)):
        ticks = [s * 10.0**p for p in range(first, last + 1) for s in steps]
        inside = [_clean(t) for t in ticks if low * 0.999 <= t <= high * 1.001]
        if len(inside) <= most:
            break
    else:
        every = math.ceil((last - first + 1) / most)
        inside = [10.0**p for p in range(first, last + 1, every) if low <= 10.0**p <= high]
    return Scale(min([low, *inside]), max([high, *inside]), tuple(inside) or (low, high), True)


def _clean(value: float) -> float:
    """Without the last bits that multiplying left: 0.3, not 0.30000000000000004."""
    return float(f"{value:.12g}")


def number(value: float) -> str:
    """A number for people, in few characters.

    >>> [number(v) for v in (0, 0.25, 12, 1024, 250_000, 3.2e7, 1.5e-7, float("nan"))]
    ['0', '0.25', '12', '1,024', '250 k', '32 M', '1.5e-7', 'not measured']
    """
    size = abs(value)
    if not math.isfinite(value):
        return "not measured" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if value == 0:
        return "0"
    if 1000 <= size < 100_000:
        return f"{value:,.0f}"
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if unit <= size < 1e13:
            short = size < 999.5 * unit
            return (f"{value / unit:.3g}" if short else f"{value / unit:,.0f}") + name
    return _EXPONENT.sub(r"e\1\2", f"{value:.3g}")
