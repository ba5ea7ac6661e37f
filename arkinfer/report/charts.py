"""Line and bar charts as SVG to put into an HTML page. Knows no page and no measurement.

Drawn for the width of a telephone: everything scales with the picture, legends wrap below it.
Colours follow the reader's light or dark setting. The SVG has no name space, since HTML needs none,
so that a page with it holds no address at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from arkinfer.report.scales import Scale, number, scale, scale_at

WIDTH = 380
"""Units of all pictures' width; text is 12 to 14 units high, so that it can be read at 340 px."""

_LEFT, _RIGHT, _TOP, _PLOT = 44, 14, 48, 200
_COLOURS = 7  # of _STYLE; more series repeat them, dashed
_MOST = 400  # points of a series that are drawn
_MARKED = 60  # up to as many points are marked one by one

_STYLE = """<style>
.ark-chart{--c0:#0b62b5;--c1:#c2410c;--c2:#15803d;--c3:#9333ea;--c4:#b45309;--c5:#0e7490;--c6:#be185d;
--ink:#1f2328;--soft:#57606a;--grid:#d8dee4;font-family:system-ui,sans-serif;font-size:12px;
width:100%;height:auto;display:block}
.ark-chart text{fill:var(--soft)}.ark-chart .ink{fill:var(--ink)}
.ark-chart .head{font-size:14px;font-weight:600;fill:var(--ink)}
.ark-chart .grid{stroke:var(--grid);stroke-width:1}
.ark-chart .line{fill:none;stroke-width:2;stroke-linejoin:round}
.ark-chart .whisker{stroke:var(--ink);stroke-width:1.5;fill:none}
@media(prefers-color-scheme:dark){.ark-chart{--c0:#6cb6ff;--c1:#ff9d5c;--c2:#57d27c;--c3:#c99cff;
--c4:#e5b454;--c5:#56d4dd;--c6:#ff8bb5;--ink:#e6edf3;--soft:#9da7b3;--grid:#30363d}}
</style>"""


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        name: what the legend says; "" leaves it out.
        points: (x, y), drawn in the order given; a NaN breaks the line.
        low: lower ends of a band around it, one for each point; None: no band.
        high: its upper ends.
    """

    name: str
    points: Sequence[tuple[float, float]]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Bar:
    """A bar of a chart.

    Attributes:
        label: what it stands for.
        value: its length; NaN is written as "not measured".
        note: a few words after the value.
        low: the lower end of its whisker; None: no whisker.
        high: its upper end.
    """

    label: str
    value: float
    note: str = ""
    low: float | None = None
    high: float | None = None


def line_chart(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    *,
    log_x: bool = False,
    log_y: bool = False,
) -> str:
    """A chart of lines, each with its band if it has one; SVG for `Figure`.

    Values that cannot be drawn (NaN, infinite, or not positive on a logarithmic axis) leave a gap.
    A linear y axis begins at 0 unless that would flatten the lines.
    """
    lines = [_thin(s) for s in series]
    x_axis = scale_at((x for s in lines for x, _ in s.points), log=log_x)
    values = [y for s in lines for y in _all_y(s)]
    finite = [y for y in values if math.isfinite(y)]
    zero = bool(finite) and 0 < max(finite) and 0 <= min(finite) < max(finite) * 0.7
    y_axis = scale(values, log=log_y, zero=zero)
    left = max(_LEFT, 14 + round(max(_width(number(t)) for t in y_axis.ticks)))
    frame = _Frame(x_axis, y_axis, left)
    bottom = _TOP + _PLOT
    parts = [_text(10, 18, _short(title, WIDTH - 20, 14), "head")]
    parts += _axes(frame, x_label, y_label)
    drawn = [list(_line(frame, s, index)) for index, s in enumerate(lines)]
    parts += [part for line in drawn for part in line]
    if not any(drawn):
        parts.append(
            _text(left + (WIDTH - left) / 2, _TOP + _PLOT / 2, "not measured", "ink", "middle")
        )
    legend, rows = _legend(lines, bottom + 52)
    height = bottom + 42 + 20 * rows + 4 * bool(rows)
    said = "; ".join(_said(s) for s in series) or "no series"
    text = f"{y_label} by {x_label}. {said}."
    return _svg(title, text, height, parts + legend)


def bar_chart(title: str, unit: str, bars: Sequence[Bar], *, reference: float | None = None) -> str:
    """A chart of horizontal bars, each with its label and value above it; SVG for `Figure`.

    Args:
        title: above the bars.
        unit: of their values.
        bars: from top to bottom.
        reference: a value to compare them with, drawn as a line across each.
    """
    values = [v for b in bars for v in (b.value, b.low, b.high, reference) if v is not None]
    axis = scale(values, zero=True)
    span = WIDTH - 20

    def place(value: float) -> float:
        return 10 + span * min(1.0, max(0.0, axis.place(value)))

    parts = [_text(10, 18, _short(title, WIDTH - 20, 14), "head")]
    top = 30
    for bar in bars:
        value = number(bar.value) + (f" {unit}" if unit and not math.isnan(bar.value) else "")
        value += f", {bar.note}" if bar.note else ""
        value = _short(value, WIDTH * 0.6)
        label = _short(bar.label, WIDTH - 32 - _width(value))
        parts.append(f"<g><title>{_escape(f'{bar.label}: {value}')}</title>")
        parts.append(_text(10, top + 12, label, "ink"))
        parts.append(_text(WIDTH - 10, top + 12, value, "", "end"))
        parts.append(_rect(10, top + 18, span, "fill:var(--grid);opacity:.5"))
        if math.isfinite(bar.value):
            start, end = sorted((place(0.0), place(bar.value)))
            parts.append(_rect(start, top + 18, max(end - start, 1), "fill:var(--c0)"))
        if reference is not None:
            parts.append(f'<path class="whisker" d="M{_at(place(reference))} {top + 15}v16"/>')
        if bar.low is not None and bar.high is not None:
            parts += _whisker_across(place, bar.low, bar.high, top + 23)
        parts.append("</g>")
        top += 36
    if not bars:
        parts.append(_text(WIDTH / 2, top + 14, "nothing to show", "ink", "middle"))
        top += 24
    said = "; ".join(f"{b.label}: {number(b.value)} {unit}".strip() for b in bars) or "no bars"
    return _svg(title, f"{said}.", top + 2, parts)


@dataclass(frozen=True)
class _Frame:
    """The plotting area: from values to units."""

    x_axis: Scale
    y_axis: Scale
    left: int

    def x(self, value: float) -> float:
        return self.left + (WIDTH - _RIGHT - self.left) * self.x_axis.place(value)

    def y(self, value: float) -> float:
        return _TOP + _PLOT * (1 - self.y_axis.place(value))

    def shows(self, point: tuple[float, float]) -> bool:
        return self.x_axis.shows(point[0]) and self.y_axis.shows(point[1])


def _axes(frame: _Frame, x_label: str, y_label: str) -> Iterator[str]:
    bottom = _TOP + _PLOT
    yield _text(10, _TOP - 12, _short(y_label, WIDTH - 20), "")
    for tick in frame.y_axis.ticks:
        y = frame.y(tick)
        yield f'<path class="grid" d="M{frame.left} {_at(y)}H{WIDTH - _RIGHT}"/>'
        yield _text(frame.left - 6, y + 4, number(tick), "", "end")
    free = -math.inf
    for tick in frame.x_axis.ticks:
        x, wide = frame.x(tick), _width(number(tick))
        yield f'<path class="grid" d="M{_at(x)} {bottom}v4"/>'
        middle = min(x, WIDTH - 2 - wide / 2)
        if middle - wide / 2 < free:
            continue
        free = middle + wide / 2 + 8
        yield _text(middle, bottom + 17, number(tick), "", "middle")
    yield _text((frame.left + WIDTH - _RIGHT) / 2, bottom + 34, _short(x_label, 340), "", "middle")


def _line(frame: _Frame, series: Series, index: int) -> Iterator[str]:
    colour = f"var(--c{index % _COLOURS})"
    dash = "" if index < _COLOURS else ";stroke-dasharray:6 3"
    yield from _band(frame, series, colour)
    shown = [p for p in series.points if frame.shows(p)]
    for whole, run in groupby(series.points, frame.shows):
        if whole:
            places = [f"{_at(frame.x(x))} {_at(frame.y(y))}" for x, y in run]
            if len(places) > 1:
                yield f'<path class="line" style="stroke:{colour}{dash}" d="M{"L".join(places)}"/>'
    if len(shown) <= _MARKED:
        for x, y in shown:
            name = f"{series.name}: " if series.name else ""
            text = f"{name}{number(y)} at {number(x)}"
            yield _marker(index, frame.x(x), frame.y(y), colour, text)


def _band(frame: _Frame, series: Series, colour: str) -> Iterator[str]:
    if series.low is None or series.high is None:
        return
    whole = [
        (x, low, high)
        for (x, y), low, high in zip(series.points, series.low, series.high, strict=True)
        if frame.shows((x, y)) and frame.y_axis.shows(low) and frame.y_axis.shows(high)
    ]
    if len(whole) == 1:
        x, low, high = whole[0]
        at = _at(frame.x(x))
        yield f'<path class="whisker" d="M{at} {_at(frame.y(low))}V{_at(frame.y(high))}"/>'
    elif whole:
        ends = [(x, high) for x, _, high in whole] + [(x, low) for x, low, _ in reversed(whole)]
        places = "L".join(f"{_at(frame.x(x))} {_at(frame.y(y))}" for x, y in ends)
        yield f'<path style="fill:{colour};opacity:.18" d="M{places}Z"/>'


def _marker(index: int, x: float, y: float, colour: str, text: str) -> str:
    """A dot, a square or a diamond, so that lines differ in more than colour."""
    style, title = f'style="fill:{colour}"', f"<title>{_escape(text)}</title>" if text else ""
    if index % 3 == 0:
        return f'<circle cx="{_at(x)}" cy="{_at(y)}" r="3.5" {style}>{title}</circle>'
    if index % 3 == 1:
        return f'<path d="M{_at(x - 3.5)} {_at(y - 3.5)}h7v7h-7z" {style}>{title}</path>'
    return f'<path d="M{_at(x)} {_at(y - 4.5)}l4.5 4.5l-4.5 4.5l-4.5-4.5z" {style}>{title}</path>'


def _legend(series: Sequence[Series], top: float) -> tuple[list[str], int]:
    """The names, as many in a row as fit; and how many rows that takes."""
    parts: list[str] = []
    x, row = 10.0, 0
    for index, name in ((i, s.name) for i, s in enumerate(series) if s.name):
        text = _short(name, WIDTH - 40)
        wide = 18 + _width(text) + 14
        if x + wide > WIDTH and x > 10:
            x, row = 10.0, row + 1
        y = top + 20 * row
        parts.append(_marker(index, x + 5, y - 4, f"var(--c{index % _COLOURS})", ""))
        parts.append(_text(x + 16, y, text, "ink"))
        x += wide
    return parts, row + 1 if parts else 0


def _whisker_across(
    place: Callable[[float], float], low: float, high: float, y: float
) -> Iterator[str]:
    if math.isfinite(low) and math.isfinite(high):
        start, end = _at(place(low)), _at(place(high))
        yield f'<path class="whisker" d="M{start} {y - 4}v8M{start} {y}H{end}M{end} {y - 4}v8"/>'


def _thin(series: Series) -> Series:
    """Few enough points to draw: of each stretch of a long line, its lowest and its highest."""
    if len(series.points) <= _MOST:
        return series
    size = math.ceil(2 * len(series.points) / _MOST)
    keep: set[int] = {0, len(series.points) - 1}
    for start in range(0, len(series.points), size):
        part = range(start, min(start + size, len(series.points)))
        real = [i for i in part if math.isfinite(series.points[i][1])] or list(part[:1])
        keep |= {min(real, key=lambda i: series.points[i][1]),
                 max(real, key=lambda i: series.points[i][1])}  # fmt: skip
    chosen = sorted(keep)
    low, high = (None if v is None else [v[i] for i in chosen] for v in (series.low, series.high))
    return Series(series.name, [series.points[i] for i in chosen], low, high)


def _all_y(series: Series) -> Iterable[float]:
    return [*(y for _, y in series.points), *(series.low or ()), *(series.high or ())]


def _said(series: Series) -> str:
    """A line in words, for who cannot see it."""
    real = [(x, y) for x, y in series.points if math.isfinite(y)]
    name = series.name or "the line"
    if not real:
        return f"{name}: not measured"
    if len(real) <= 8:
        return f"{name}: " + ", ".join(f"{number(y)} at {number(x)}" for x, y in real)
    low, high = min(real, key=lambda p: p[1]), max(real, key=lambda p: p[1])
    return (f"{name}: {len(real)} points, lowest {number(low[1])} at {number(low[0])}, "
            f"highest {number(high[1])} at {number(high[0])}")  # fmt: skip


def _svg(title: str, text: str, height: float, parts: Iterable[str]) -> str:
    label = _escape(title)
    return (
        f'<svg class="ark-chart" viewBox="0 0 {WIDTH} {_at(height)}" role="img" '
        f'aria-label="{label}"><title>{label}</title><desc>{_escape(text)}</desc>{_STYLE}'
        f"{''.join(parts)}</svg>"
    )


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    kind = f' class="{kind}"' if kind else ""
    where = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{_at(x)}" y="{_at(y)}"{kind}{where}>{_escape(text)}</text>'


def _rect(x: float, y: float, width: float, style: str) -> str:
    return f'<rect x="{_at(x)}" y="{y}" width="{_at(width)}" height="10" rx="2" style="{style}"/>'


def _at(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _width(text: str, size: int = 12) -> float:
    """About how wide a text is, in units; a little too much for most."""
    narrow = sum(c in "iljtfrI.,:;|!' ()[]" for c in text)
    wide = sum(ord(c) > 0x2E80 for c in text)
    return size * (0.62 * (len(text) - narrow - wide) + 0.36 * narrow + 1.05 * wide)


def _short(text: str, width: float, size: int = 12) -> str:
    """A text without its middle where it is too long: names differ at both ends."""
    if _width(text, size) <= width:
        return text
    keep = len(text)
    while keep > 2 and _width(text[:keep], size) > width - size:
        keep -= 1
    half = keep // 2
    return f"{text[: keep - half]}…{text[-half:]}"


def _escape(text: str) -> str:
    """Text for XML, without the control characters that XML forbids."""
    return escape("".join(c if c.isprintable() else " " for c in text))
