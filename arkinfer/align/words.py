"""An alignment in words and short numbers, for the terminal and the page. Knows neither."""

from __future__ import annotations

import math
from collections.abc import Callable

from arkinfer.align.compare import Difference, Statistics
from arkinfer.align.report import Finding, Report, StageReport


def verdict(report: Report) -> str:
    """What came out, in one sentence."""
    first = report.first
    other = f" with {report.model}" if report.model else ""
    if first is None:
        return f"{report.artifact} is aligned{other}: {_compared(report):,} comparisons hold."
    stage, finding = first
    where = f"{finding.op or 'the file'}{f' in {finding.loc}' if finding.loc else ''}"
    return f"{report.artifact} leaves its model in the stage {stage.name}, at {where}."


def _compared(report: Report) -> int:
    return sum(stage.compared for stage in report.stages)


def failure_lines(stage: StageReport, finding: Finding) -> list[str]:
    """What is wrong, line by line: the IR line, the torch path, the errors and where."""
    lines = [finding.line] if finding.line else []
    lines += [f"torch path  {finding.loc}"] if finding.loc else []
    lines += [finding.what] if finding.what else []
    lines += [f"step        {finding.step}"] if finding.step else []
    difference, tolerance = finding.difference, finding.tolerance
    if difference is not None and tolerance is not None:
        lines += _errors(difference, stage.sides)
        if finding.end_to_end is not None:
            lines.append(f"from the tokens on, its error is {figure(finding.end_to_end)}")
        allowed = f"{figure(tolerance.relative)}, in one channel {figure(tolerance.channel)}"
        lines.append(f"allowed     {allowed}: {tolerance.why}")
    return lines


def _errors(difference: Difference, sides: tuple[str, str]) -> list[str]:
    lines = [f"error       {figure(difference.relative)} of its root mean square"]
    if difference.channel >= 0:
        worst = figure(difference.channel_relative)
        lines.append(f"            {worst} in channel {difference.channel}, the worst")
    if difference.nonfinite:
        share = f"{100 * difference.nonfinite:.3g} %"
        lines.append(f"            {share} of its elements are not finite on one side alone")
    if difference.worst:
        place = ", ".join(map(str, difference.worst))
        lines.append(
            f"            worst at [{place}]: {number(difference.worst_expected)} ({sides[0]}), "
            f"{number(difference.worst_found)} ({sides[1]})"
        )
    return lines


def number_rows(difference: Difference) -> list[tuple[str, ...]]:
    """Both tensors, figure by figure."""
    rows: dict[str, Callable[[Statistics], str]] = {
        "shape": lambda s: "x".join(map(str, s.shape)),
        "min": lambda s: number(s.min),
        "max": lambda s: number(s.max),
        "mean": lambda s: number(s.mean),
        "rms": lambda s: number(s.rms),
        "not finite": _share,
    }
    sides = difference.expected, difference.found
    return [(name, *(read(side) for side in sides)) for name, read in rows.items()]


def _share(statistics: Statistics) -> str:
    return f"{100 * statistics.nonfinite:.3g} %"


def number(value: float) -> str:
    """Six digits.

    >>> number(1 / 3), number(float("nan"))
    ('0.333333', 'nan')
    """
    return f"{value:.6g}"


def figure(error: float) -> str:
    """An error for people.

    >>> figure(0.1634), figure(2.7e-7), figure(0.0), figure(float("inf"))
    ('16.3 %', '2.7e-07', '0', 'infinite')
    """
    if math.isinf(error) or math.isnan(error):
        return "infinite"
    if error == 0:
        return "0"
    return f"{100 * error:.3g} %" if error >= 1e-3 else f"{error:.2g}"
