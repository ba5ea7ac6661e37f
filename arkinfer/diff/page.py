"""A comparison as a page of HTML. Knows no command; the page's maker escapes every text."""

from __future__ import annotations

from arkinfer.diff.behaviour import Behaviour
from arkinfer.diff.compare import Comparison, Graph
from arkinfer.diff.weights import Stored, WeightChange
from arkinfer.diff.wording import answers, graph_summary, headline, relative, shown, weights_summary
from arkinfer.report.charts import Bar, Series, bar_chart, line_chart
from arkinfer.report.page import (
    Block,
    Code,
    Facts,
    Figure,
    Heading,
    Paragraph,
    Table,
    Verdict,
    page,
)
from arkinfer.words import human

LINES = 1500
"""Of a graph's difference."""


def comparison_page(found: Comparison, a: str, b: str) -> str:
    """The page.

    Args:
        found: the comparison.
        a: what to call the first artifact.
        b: and the second.
    """
    blocks: list[Block] = [Verdict(headline(found), "good" if found.same else "plain")]
    if found.behaviour is not None:
        blocks += _behaviour(found.behaviour)
    if found.facts:
        rows = [(fact.key, shown(fact.a), shown(fact.b)) for fact in found.facts]
        blocks += [Heading("Manifest"), Table(("fact", a, b), rows)]
    blocks += _weights(found, a, b)
    if found.entries:
        rows = [(e.name, _size(e.a), _size(e.b)) for e in found.entries]
        blocks += [Heading("Other entries"), Table(("entry", a, b), rows, align="lr")]
    for graph in found.graphs:
        blocks += _graph(graph)
    return page(f"{a} and {b}", "What differs between two artifacts.", blocks)


def _graph(graph: Graph) -> list[Block]:
    blocks: list[Block] = [Heading(f"Graph: {graph.entry}"), Paragraph(graph_summary(graph))]
    if graph.diff is None:
        return blocks
    if graph.diff.changed:
        rows = [(change.op, change.loc, change.what) for change in graph.diff.changed]
        blocks.append(Table(("op", "torch path", "difference"), rows))
    if lines := graph.diff.lines:
        left = f"\n… {len(lines) - LINES} more lines" if len(lines) > LINES else ""
        blocks.append(Code("\n".join(lines[:LINES]) + left, "line by line"))
    return blocks


def _weights(found: Comparison, a: str, b: str) -> list[Block]:
    rows = [(group, human(x), human(y)) for group, x, y in found.sizes]
    blocks: list[Block] = [
        Heading("Weights"),
        Paragraph(weights_summary(found)),
        Table(("group", a, b), rows, align="lr"),
    ]
    known = sorted(
        (w for w in found.weights if w.relative is not None), key=lambda w: -(w.relative or 0.0)
    )
    if finite := [w for w in known[:12] if w.relative != float("inf")]:
        bars = [Bar(w.name, (w.relative or 0.0) * 100) for w in finite]
        blocks.append(Figure(bar_chart("Largest relative differences", "%", bars)))
    if found.weights:
        table = [(w.name, w.how, _kind(w.a), _kind(w.b), relative(w)) for w in _ordered(found)]
        blocks.append(Table(("weight", "", a, b, "difference"), table, align="llllr"))
    return blocks


def _ordered(found: Comparison) -> list[WeightChange]:
    """The largest differences first, then what could not be compared."""
    return sorted(found.weights, key=lambda w: -1.0 if w.relative is None else w.relative)[::-1]


def _behaviour(found: Behaviour) -> list[Block]:
    blocks: list[Block] = [Heading("Answers"), *(Paragraph(line) for line in answers(found))]
    if not found.prompts:
        return blocks
    series = [
        Series(prompt.name, [(float(i), kl) for i, kl in enumerate(prompt.kl) if kl < float("inf")])
        for prompt in found.prompts
    ]
    title, x, y = "Divergence by position", "token of the prompt", "nats"
    blocks.append(Figure(line_chart(title, x, y, series)))
    facts = [
        (f"{prompt.name}: {which}", text)
        for prompt in found.prompts
        if prompt.parts_at is not None
        for which, text in zip(("first", "second"), prompt.answers, strict=True)
    ]
    return [*blocks, Facts(facts)] if facts else blocks


def _kind(stored: Stored | None) -> str:
    return "" if stored is None else f"{stored.kind} {list(stored.shape)}"


def _size(size: int | None) -> str:
    return "" if size is None else human(size)
