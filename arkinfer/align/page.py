"""An alignment as one HTML page: the verdict, the first failure, the error along depth per stage.

Knows no stage by name.
"""

from __future__ import annotations

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
        (stage.name, f"{stage.compared:,}", figure(stage.largest), f"{len(stage.failures):,}",
         f"{stage.seconds:.1f} s")
        for stage in report.stages
    ]  # fmt: skip
    failed = [i for i, stage in enumerate(report.stages) if stage.failures]
    header = ("stage", "compared", "largest error", "out of tolerance", "time")
    return Table(header, rows, align="lr", marked=failed)


def _pictures(report: Report) -> list[Block]:
    pictures: list[Block] = []
    for stage in report.stages:
        points = [
            (100 * f.depth, max(f.difference.relative, SMALLEST))
            for f in stage.findings
            if f.difference is not None
        ]
        if not points:
            continue
        series = [Series("op by op", points)]
        allowed = [
            (100 * f.depth, f.tolerance.relative)
            for f in stage.findings
            if f.tolerance is not None and 0 < f.tolerance.relative < 1e9
        ]
        whole = [
            (100 * f.depth, max(f.end_to_end, SMALLEST))
            for f in stage.findings
            if f.end_to_end is not None
        ]
        series += [Series("from the tokens on", whole)] if whole else []
        series += [Series("allowed", allowed)] if allowed else []
        svg = line_chart(
            stage.name, "depth, % of the function", "relative error", series, log_y=True
        )
        pictures.append(Figure(svg, f"{stage.sides[1]} against {stage.sides[0]}"))
    return pictures


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
