"""The HTML pages of a run and of a comparison, from the facts that their JSON has too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from arkinfer.bench.compare import percent
from arkinfer.machine.environment import Environment
from arkinfer.report import (
    Bar,
    Block,
    Facts,
    Figure,
    Heading,
    Paragraph,
    Series,
    Table,
    Verdict,
    bar_chart,
    line_chart,
    page,
)
from arkinfer.report.scales import number

_KINDS = (
    ("prefill", "Prefill by prompt length", "tokens of the prompt", "tokens", True),
    ("decode", "Decode by depth", "tokens in the cache before", "depth", False),
)


def run_page(facts: dict[str, Any]) -> str:
    """The page of `arkinfer bench`."""
    first, rss = facts["first_token"], facts["rss"]
    blocks: list[Block] = [Verdict(text, "bad") for text in facts["environment"]["disturbed"]]
    blocks.append(
        Facts(
            [
                ("artifact", facts["path"]),
                ("digest", facts["digest"]),
                ("backend", facts["backend"]),
                *([("kernels for", facts["variant"])] if facts["variant"] else []),
                ("threads", _threads(facts["threads"])),
                ("launches", f"{facts['launches']} of {facts['rounds']} rounds"),
                ("first token", _spread(first, "s", f" after {first['tokens']} tokens of prompt")),
                ("load", _spread(facts["load"], "s", f", {_mib(facts['section_bytes'])}")),
                ("memory", f"{_mib(rss['loaded'])} loaded, {_mib(rss['peak'])} at most (RSS)"),
            ]
        )
    )
    blocks.append(Heading("Speed"))
    blocks += _curves(facts["results"])
    blocks.append(_speeds(facts["results"]))
    blocks += _environment(facts["environment"])
    lead = "Tokens per second, memory and the time to the first token, in fresh processes."
    return page(f"arkinfer bench {facts['path']}", lead, blocks)


def _curves(results: Sequence[dict[str, Any]]) -> list[Figure]:
    """A curve for each kind that was measured at several places, else bars."""
    figures: list[Figure] = []
    for kind, title, x_label, x_name, log in _KINDS:
        rows = sorted((r for r in results if r["kind"] == kind), key=lambda r: r[x_name])
        speeds = [r["tokens_per_second"] for r in rows]
        if len(rows) > 1:
            points = [(r[x_name], s["median"]) for r, s in zip(rows, speeds, strict=True)]
            low, high = ([s[f"{end}_quartile"] for s in speeds] for end in ("lower", "upper"))
            svg = line_chart(title, x_label, "tokens per second",
                             [Series("", points, low, high)], log_x=log)  # fmt: skip
            figures.append(Figure(svg, "Medians, and the quartiles as a band."))
    if not figures:
        bars = [
            Bar(_case(r), s["median"], "", s["lower_quartile"], s["upper_quartile"])
            for r in results
            for s in [r["tokens_per_second"]]
        ]
        svg = bar_chart("Speed", "tok/s", bars)
        figures.append(Figure(svg, "Medians, and the quartiles as whiskers."))
    return figures


def _speeds(results: Sequence[dict[str, Any]]) -> Table:
    keys = ("median", "lower_quartile", "upper_quartile", "min", "max")
    rows = [
        [r["kind"], f"{r['tokens']:,}", f"{r['depth']:,}"]
        + [f"{r['tokens_per_second'][key]:,.1f}" for key in keys]
        for r in results
    ]
    header = ["", "tokens", "depth", "tok/s", "low quarter", "high quarter", "slowest", "fastest"]
    return Table(header, rows, "lr", "Tokens per second over all rounds")


def compare_page(facts: dict[str, Any]) -> str:
    """The page of `arkinfer bench compare`."""
    kinds = {case["verdict"] for case in facts["cases"]}
    tone = "bad" if "slower" in kinds else "good" if "faster" in kinds else "plain"
    blocks: list[Block] = [Verdict(facts["verdict"], tone)]
    blocks += [Paragraph(f"Note: {text}.") for text in facts["notes"]]
    blocks.append(Facts([(side.upper(), _subject(facts[side])) for side in ("a", "b")]))
    blocks.append(Heading("B compared with A"))
    blocks += _ratios(facts["cases"])
    rows = [
        [_case(c), f"{c['a']:,.1f}", f"{c['b']:,.1f}", _share(c["speed"]["middle"]),
         f"{_share(c['speed']['low'])} … {_share(c['speed']['high'])}", c["verdict"]]
        for c in facts["cases"]
    ]  # fmt: skip
    header = ["case", "A tok/s", "B tok/s", "B of A", "interval", "B is"]
    confidence = f"{facts['confidence']:g} % confidence, all cases together"
    blocks.append(Table(header, rows, "lrrrrl", f"Medians, and intervals of {confidence}"))
    blocks += _environment(facts["environment"])
    return page("arkinfer bench compare", "Is B as fast as A, here and now?", blocks)


def _ratios(cases: Sequence[dict[str, Any]]) -> list[Figure]:
    bars = [Bar(_case(c), 100 * c["speed"]["middle"], "", *_ends(c["speed"])) for c in cases]
    caption = "The line is 100 %: as fast as A. The whiskers are the confidence intervals."
    figures = [Figure(bar_chart("Speed of B as a share of A's", "%", bars, reference=100), caption)]
    series = [
        Series(_case(c), [(i + 1, 100 * r) for i, r in enumerate(c["launch_ratios"])])
        for c in cases
        if len(c.get("launch_ratios") or ()) > 1
    ]
    if series:
        svg = line_chart("Launch by launch", "launch", "speed of B as a share of A's, %", series)
        figures.append(Figure(svg, "How much processes differ from launch to launch."))
    return figures


def _ends(speed: dict[str, Any]) -> tuple[float | None, float | None]:
    if speed["low"] is None or speed["high"] is None:
        return None, None
    return 100 * speed["low"], 100 * speed["high"]


def _environment(facts: dict[str, Any]) -> list[Block]:
    """Both machines, where they differ both values: before and after, or of A and B."""
    (_, one), (name, other) = [(k, v) for k, v in facts.items() if isinstance(v, dict)][:2]
    rows: list[tuple[str, object]] = []
    pairs = zip(Environment.from_json(one).rows(), Environment.from_json(other).rows(), strict=True)
    for (label, first), (_, second) in pairs:
        text = first if first == second else f"{first or 'not measured'}; {name} {second}"
        rows.append((label, text))
    return [Heading("Machine"), Facts(rows)]


def _subject(facts: dict[str, Any]) -> str:
    return f"{facts['path']}, {facts['backend']}, threads: {_threads(facts['threads'])}"


def _threads(threads: int | None) -> str:
    return "as the backend likes" if threads is None else str(threads)


def _case(facts: dict[str, Any]) -> str:
    if facts["kind"] == "prefill":
        return f"prefill {facts['tokens']:,}"
    return f"decode at {facts['depth']:,}"


def _share(ratio: float | None) -> str:
    return "unknown" if ratio is None else f"{percent(100 * ratio)} %"


def _spread(summary: dict[str, Any], unit: str, more: str) -> str:
    low, high = number(summary["min"]), number(summary["max"])
    return f"{number(summary['median'])} {unit} ({low} … {high}){more}"


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"
