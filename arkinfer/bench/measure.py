"""Measures one artifact in processes of its own. Knows no backend and no picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

from arkinfer.bench.cases import Case
from arkinfer.bench.process import Worker
from arkinfer.bench.subject import Subject
from arkinfer.bench.worker import FIRST
from arkinfer.errors import UsageError


@dataclass
class Measured:
    """What the processes found.

    Attributes:
        seconds: of each case, by launch and round.
        ready: what each process said when it had its first token.
        peak: resident bytes that each held at most.
    """

    seconds: dict[Case, list[list[float]]]
    ready: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    peak: list[int] = field(default_factory=list[int])

    def to_json(self) -> dict[str, Any]:
        """Everything, with stable keys; seconds by launch and round."""
        rss = [facts["rss"]["now"] for facts in self.ready]
        return {
            "variant": self.ready[0]["variant"],
            "launches": len(self.ready),
            "rounds": min((len(r) for found in self.seconds.values() for r in found), default=0),
            "first_token": {"tokens": FIRST, **self._spread("first_token_seconds")},
            "load": self._spread("load_seconds"),
            "rss": {
                "before": int(median(facts["rss_before"] for facts in self.ready)),
                "loaded": int(median(rss)),
                "peak": max(self.peak),
            },
            "small_pages": any(facts.get("small_pages", False) for facts in self.ready),
            "results": [
                {
                    "kind": case.kind,
                    "tokens": case.tokens,
                    "depth": case.depth,
                    "tokens_per_second": summary(rates(case, launches)),
                    "seconds": launches,
                }
                for case, launches in self.seconds.items()
            ],
        }

    def _spread(self, name: str) -> dict[str, Any]:
        values = [float(facts[name]) for facts in self.ready]
        return {**summary(values), "seconds": values}


def measure(
    subject: Subject,
    wanted: Sequence[Case],
    *,
    launches: int,
    rounds: int,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> Measured:
    """Times the cases; in each process, one more round comes first, which is not counted.

    Rounds are interleaved, so that whatever else the machine does touches all cases alike.

    Args:
        subject: the artifact.
        wanted: see `arkinfer.bench.cases`.
        launches: processes, one after the other.
        rounds: of each.
        seed: of the token ids, which are random.
        progress: called with (done, all) tokens.
    """
    for name, number in (("rounds", rounds), ("launches", launches)):
        if number < 1:
            raise UsageError(f"There cannot be {number} {name}", fix="Give at least 1")
    result = Measured({case: [] for case in wanted})
    # The cache is filled to each depth once a round: that work counts for progress only.
    done = 0
    total = launches * (rounds + 1) * sum(case.depth + case.tokens for case in wanted)
    command = subject.command(max(case.depth + case.tokens for case in wanted), seed)
    for _ in range(launches):
        found: dict[Case, list[float]] = {case: [] for case in wanted}
        with Worker(subject.name, command) as worker:
            result.ready.append(worker.ready())
            for number in range(rounds + 1):
                for case in wanted:
                    seconds = worker.seconds(case)
                    if number:
                        found[case].append(seconds)
                    done += case.depth + case.tokens
                    if progress is not None:
                        progress(done, total)
            result.peak.append(worker.memory()["peak"])
        for case, seconds in found.items():
            result.seconds[case].append(seconds)
    return result


def summary(values: Sequence[float]) -> dict[str, float]:
    """The median, the quartiles and the ends of some values."""
    ends = quantiles(values, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {
        "median": median(values), "lower_quartile": ends[0], "upper_quartile": ends[2],
        "min": min(values), "max": max(values),
    }  # fmt: skip


def rates(case: Case, launches: Sequence[Sequence[float]]) -> list[float]:
    """Tokens per second of all rounds."""
    return [case.tokens / seconds for rounds in launches for seconds in rounds]
