"""What a run of the harness found: saved as JSON, read again, and told in tables.

Ratios are taken within a round. Knows no process and no picture.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Literal

from arkinfer.bench.cases import Case
from arkinfer.bench.compare import Difference, Rule, difference
from arkinfer.errors import UsageError

VERSION = 1
Weights = Literal["int4", "ternary", "bf16"]
Launches = list[list[float]]
"""Seconds by launch and round."""

_CASES = {"prefill": 0, "decode": 1, "step": 2}


@dataclass(frozen=True)
class Contender:
    """An engine that took part.

    Attributes:
        name: short.
        role: whether it is ours, a peer's, or what the machine allows.
        weights: what form of the model it ran.
        how: a line for people.
    """

    name: str
    role: Literal["ours", "peer", "limit"]
    weights: Weights
    how: str


@dataclass
class Run:
    """What all of them did with a number of threads.

    Attributes:
        threads: of each.
        seconds: by case and name; rounds of cases of one heat belong together.
        facts: by name: load_seconds, first_token_seconds, rss, peak_rss, filled, correlation.
    """

    threads: int
    seconds: dict[Case, dict[str, Launches]] = field(
        default_factory=dict[Case, dict[str, Launches]]
    )
    facts: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    def speed(self, name: str, case: Case) -> float:
        """Tokens per second, the median of all rounds."""
        return median(case.tokens / s for rounds in self.seconds[case][name] for s in rounds)

    def speeds(self, name: str, case: Case) -> tuple[float, float, float]:
        """Quartiles of tokens per second over all rounds."""
        return _spread([case.tokens / s for rounds in self.seconds[case][name] for s in rounds])

    def difference(self, name: str, other: str, case: Case, rule: Rule) -> Difference:
        """How the speed of `name` relates to that of `other`, which is its A."""
        a, b = self.seconds[case][other], self.seconds[case][name]
        pairs = [list(zip(x, y, strict=True)) for x, y in zip(a, b, strict=True)]
        return difference(case, pairs, rule, rule.alpha(len(self.seconds)))

    def ratios(self, name: str, other: str, case: Case) -> tuple[float, float, float]:
        """Quartiles over all rounds of the speed of `name` divided by that of `other`."""
        return _quartiles(self.seconds[case][other], self.seconds[case][name])

    def cost(self, name: str, step: Case) -> tuple[float, float, float] | None:
        """Quartiles of the time of a step divided by that of a single token; None: not paired."""
        single = Case("decode", step.depth, self.single)
        pair = [self.seconds.get(case, {}).get(name) for case in (step, single)]
        if pair[0] is None or pair[1] is None:
            return None
        alone = [[s / single.tokens for s in rounds] for rounds in pair[1]]
        return _quartiles(pair[0], alone)

    @property
    def single(self) -> int:
        """Tokens of a sample of decoding."""
        return next((case.tokens for case in self.seconds if case.kind == "decode"), 1)


def _quartiles(above: Launches, below: Launches) -> tuple[float, float, float]:
    pairs = [zip(x, y, strict=True) for x, y in zip(above, below, strict=True)]
    return _spread([a / b for rounds in pairs for a, b in rounds])


def _spread(values: list[float]) -> tuple[float, float, float]:
    low, middle, high = (
        quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    )
    return low, middle, high


@dataclass
class Results:
    """Everything that a run of the harness found.

    Attributes:
        settings: what was asked for.
        environment: the machine before and after.
        contenders: who took part.
        skipped: who did not, in sentences.
        runs: one for each number of threads.
    """

    settings: dict[str, Any]
    environment: dict[str, Any]
    contenders: list[Contender]
    skipped: list[str] = field(default_factory=list[str])
    runs: list[Run] = field(default_factory=list[Run])

    def group(self, weights: str) -> list[Contender]:
        """Who is compared: those with these weights; unquantized ones stand beside int4, and our
        int4 beside our ternary."""
        beside = {"int4": ("bf16",), "ternary": ()}[weights]
        found = [c for c in self.contenders if c.weights in (weights, *beside)]
        if weights == "ternary" and found:
            found += [c for c in self.contenders if c.role == "ours" and c.weights == "int4"]
        order = {"limit": 0, "ours": 1, "peer": 2}
        return sorted(found, key=lambda c: order[c.role])

    def reference(self, weights: str) -> Contender | None:
        """Ours that the others are divided by: of the first backend that runs these weights."""
        ours = [c for c in self.contenders if c.role == "ours" and c.weights == weights]
        return ours[0] if ours else None

    def to_json(self) -> dict[str, Any]:
        """With stable keys."""
        return {
            "version": VERSION,
            "settings": self.settings,
            "environment": self.environment,
            "contenders": [asdict(c) for c in self.contenders],
            "skipped": self.skipped,
            "runs": [
                {
                    "threads": run.threads,
                    "facts": run.facts,
                    "results": [asdict(c) | {"seconds": s} for c, s in run.seconds.items()],
                }
                for run in self.runs
            ],
        }


def read_results(path: Path) -> Results:
    """Reads what `--json` saved.

    Raises:
        UsageError: there is no such file, or it is another one.
    """
    try:
        facts = json.loads(path.read_text("utf-8"))
        if facts["version"] != VERSION:
            raise ValueError(f"it has version {facts['version']}, not {VERSION}")
        contenders = [Contender(**c) for c in facts["contenders"]]
        runs = [
            Run(
                run["threads"],
                {Case(r["kind"], r["depth"], r["tokens"]): r["seconds"] for r in run["results"]},
                run["facts"],
            )
            for run in facts["runs"]
        ]
    except OSError as error:
        raise UsageError(f'"{path}" cannot be read', error.strerror or "", "Check the path") from (
            error
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f'"{path}" holds no results of the harness', f"Reason: {error!r}",
                         "Make them with: python -m benchmarks.harness --json FILE") from (
            error
        )  # fmt: skip
    return Results(facts["settings"], facts["environment"], contenders, facts["skipped"], runs)


@dataclass(frozen=True)
class Table:
    """Rows of text under a title."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def lines(self) -> list[str]:
        """As Markdown, in columns."""
        rows = [self.header, *self.rows]
        wide = [max(len(row[i]) for row in rows) for i in range(len(self.header))]
        rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(wide)]
        text = [[*row] for row in (self.header, rule, *self.rows)]
        return [
            "| "
            + " | ".join(t.ljust(w) if i == 0 else t.rjust(w)
                         for i, (t, w) in enumerate(zip(row, wide, strict=True)))
            + " |"
            for row in text
        ]  # fmt: skip


def tables(found: Results, rule: Rule | None = None) -> list[Table]:
    """Everything in tables: speeds, ratios, small steps, memory.

    Args:
        found: a run.
        rule: for intervals of the ratios; None: quartiles suffice.
    """
    made: list[Table] = []
    for run in found.runs:
        threads = f"{run.threads} thread{'s' * (run.threads != 1)}"
        for weights in ("int4", "ternary"):
            reference = found.reference(weights)
            if reference is None:
                continue
            group = [c for c in found.group(weights) if c.name in run.facts]
            for case in sorted(run.seconds, key=lambda c: (_CASES[c.kind], c.depth, c.tokens)):
                if case.kind != "step" and reference.name in run.seconds[case]:
                    made.append(_case(run, case, group, reference, rule, f"{weights}, {threads}"))
        made += _steps(run, found, threads)
        made += _machine(run, found, threads)
        made.append(_processes(run, found, threads))
    return made


def _case(
    run: Run,
    case: Case,
    group: Sequence[Contender],
    reference: Contender,
    rule: Rule | None,
    what: str,
) -> Table:
    rows: list[tuple[str, ...]] = []
    for contender in group:
        if contender.name not in run.seconds[case]:
            continue
        low, middle, high = run.ratios(reference.name, contender.name, case)
        own = contender is reference
        row = [contender.name, f"{run.speed(contender.name, case):,.1f}"]
        row += ["", ""] if own else [f"{middle:.2f}", f"{low:.2f} … {high:.2f}"]
        if rule is not None:
            row.append("" if own else _interval(run, reference.name, contender.name, case, rule))
        rows.append(tuple(row))
    header = ["", "tokens/s", f"{reference.name} is", "quartiles"]
    if rule is not None:
        header.append(f"at {100 * rule.confidence:g} %")
    return Table(f"{case.name}, {what}", tuple(header), rows)


def _interval(run: Run, name: str, other: str, case: Case, rule: Rule) -> str:
    speed = run.difference(name, other, case, rule).speed
    known = speed.low > 0 and math.isfinite(speed.high)
    return f"{speed.low:.2f} … {speed.high:.2f}" if known else "too few launches"


def _steps(run: Run, found: Results, threads: str) -> list[Table]:
    rows: list[tuple[str, ...]] = []
    for case in sorted(run.seconds, key=lambda c: (c.depth, c.tokens)):
        by_name = run.seconds[case]
        for contender in found.contenders:
            if case.kind == "step" and contender.name in by_name:
                cost = run.cost(contender.name, case)
                if cost is not None:
                    low, middle, high = cost
                    took = median(s for rounds in by_name[contender.name] for s in rounds)
                    rows.append((f"{case.name}, {contender.name}", f"{1000 * took:.2f}",
                                 f"{middle:.2f}", f"{low:.2f} … {high:.2f}"))  # fmt: skip
    header = ("", "ms", "single tokens", "quartiles")
    return [Table(f"what a step costs, {threads}", header, rows)] if rows else []


def _machine(run: Run, found: Results, threads: str) -> list[Table]:
    """What the limits are in bytes and operations; a product and its sum are two."""
    rows: list[tuple[str, ...]] = []
    for contender in found.contenders:
        facts = run.facts.get(contender.name, {})
        if contender.role != "limit" or "work" not in facts:
            continue
        work = facts["work"]
        for case, by_name in run.seconds.items():
            if contender.name not in by_name:
                continue
            speed = run.speed(contender.name, case)
            if case.kind == "decode":
                size = work["weights"] + work["cached"] * (case.depth + case.tokens // 2)
                row = (f"{size / 1e6:,.1f} MB", f"{speed * size / 1e9:,.1f} GB/s", "reads")
            else:
                count = 2 * (work["products"] + work["head"] / case.tokens)
                row = (f"{count / 1e6:,.0f} M int8", f"{speed * count / 1e9:,.0f} Gop/s",
                       facts["dot"])  # fmt: skip
            rows.append((f"{case.name}, {contender.name}", *row))
    header = ("", "for a token", "measured", "by")
    return [Table(f"the machine, {threads}", header, rows)] if rows else []


def _processes(run: Run, found: Results, threads: str) -> Table:
    rows: list[tuple[str, ...]] = []
    for contender in found.contenders:
        facts = run.facts.get(contender.name)
        if facts is None or contender.role == "limit":
            continue
        alike = facts.get("correlation")
        rows.append((
            contender.name, f"{facts['load_seconds']:.2f}", f"{facts['first_token_seconds']:.2f}",
            f"{facts['rss'] / 2**20:,.0f}", f"{facts['peak_rss'] / 2**20:,.0f}",
            "not known" if alike is None else f"{alike:.2f}", facts["filled"],
        ))  # fmt: skip
    header = ("", "load, s", "first token, s", "RSS, MiB", "peak, MiB", "same model", "caches")
    return Table(f"processes, {threads}", header, rows)
