"""An alignment as one HTML page: the verdict, the first failure, the error along depth per stage.

Knows no stage by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from arkinfer.align.report import Finding, Report, StageReport
from arkinfer.align.words import failure_lines, figure, number_rows, verdict
from arkinfer.report import (
    Block,
    Code,
    Facts,
    Figure,
    Heading,
    Paragraph,
    Series,
    Table,
    Verdict,
    line_chart,
    page,
)

SMALLEST = 1e-9
"""What an error of zero is drawn as: the axis is logarithmic."""

_WORST = 12  # values of a stage that its table lists


def to_html(report: Report) -> str:
    """The page."""
    lead = (
        "Each op was computed twice: by the stage and by the one before it, from the same "
        "operands. The error is the root mean square of the difference over that of the value."
    )
    blocks: list[Block] = [
        Verdict(verdict(report), "good" if report.aligned else "bad"),
        *(Paragraph(note) for note in report.notes),
        Facts(_facts(report)),
    ]
    if report.first is not None:
        blocks += _first(*report.first)
    blocks += [Heading("Stages"), _stages(report), Heading("Error along depth")]
    blocks += _pictures(report)
    blocks += list(_worst(report))
    return page(f"Alignment of {report.artifact}", lead, blocks)


def _facts(report: Report) -> list[tuple[str, object]]:
    return [
        ("model", report.model or "none"),
        ("artifact", report.artifact),
        ("backend", report.backend),
        ("tokens", report.tokens),
        ("built from this checkpoint", {True: "yes", False: "no"}.get(report.same_source or False)
         if report.same_source is not None else None),
    ]  # fmt: skip


def _first(stage: StageReport, finding: Finding) -> list[Block]:
    blocks: list[Block] = [
        Heading("The first op out of tolerance"),
        Code("\n".join(failure_lines(stage, finding))),
    ]
    if finding.difference is not None:
        rows = number_rows(finding.difference)
        blocks.append(Table(("", *stage.sides), rows, align="lr", caption="Both tensors"))
    return blocks


def _stages(report: Report) -> Table:
    rows = [
        (stage.name, f"{stage.compared:,}", figure(stage.largest),
         "" if stage.summed is None else figure(stage.summed), f"{len(stage.failures):,}",
         f"{stage.seconds:.1f} s")
        for stage in report.stages
    ]  # fmt: skip
    failed = [i for i, stage in enumerate(report.stages) if stage.failures]
    header = ("stage", "compared", "largest error", "adds up to", "out of tolerance", "time")
    return Table(header, rows, align="lr", marked=failed)


def _pictures(report: Report) -> list[Block]:
    pictures: list[Block] = []
    for stage in report.stages:
        series = [line for step in _steps(stage) for line in _lines(stage, step)]
        if not series:
            continue
        svg = line_chart(
            stage.name, "depth, % of the function", "relative error", series, log_y=True
        )
        caption = f"{stage.sides[1]} against {stage.sides[0]}; no error is drawn as {SMALLEST:g}"
        pictures.append(Figure(svg, caption))
    return pictures


def _steps(stage: StageReport) -> list[str]:
    return list(dict.fromkeys(finding.step for finding in stage.findings))


def _lines(stage: StageReport, step: str) -> list[Series]:
    """The error op by op, as it adds up, and for the first step what is allowed."""
    findings = [f for f in stage.findings if f.step == step]
    own = [(f.depth, f.difference.relative) for f in findings if f.difference is not None]
    summed = [(f.depth, f.end_to_end) for f in findings if f.end_to_end is not None]
    allowed = [(f.depth, f.tolerance.relative) for f in findings if f.tolerance is not None]
    if step != _steps(stage)[0]:
        allowed = []
    named = f", {step}" if step else ""
    known = (
        (f"op by op{named}", own),
        (f"adding up{named}", summed),
        ("allowed", [(depth, most) for depth, most in allowed if 0 < most < math.inf]),
    )
    return [
        Series(name, [(100 * depth, max(error, SMALLEST)) for depth, error in points])
        for name, points in known
        if points
    ]


def _worst(report: Report) -> Iterator[Block]:
    yield Heading("The largest errors of each stage")
    for stage in report.stages:
        known = [(f.difference.relative, f) for f in stage.findings if f.difference is not None]
        worst = sorted(known, key=lambda pair: -pair[0])[:_WORST]
        rows = [
            (
                finding.op,
                finding.loc,
                figure(error),
                "any" if finding.tolerance is None else figure(finding.tolerance.relative),
                finding.line.partition(" = ")[0],
            )
            for error, finding in worst
        ]
        if rows:
            header = ("op", "torch path", "error", "allowed", "value")
            yield Table(header, rows, align="llrrl", caption=stage.name)
        for note in stage.notes:
            yield Paragraph(f"{stage.name}: {note}")
