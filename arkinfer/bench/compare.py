"""Runs two engines in turns, and says whether one is slower. Knows no artifact and no file.

A launch is a fresh pair of processes, since where a process finds its pages moves its speed by some
per cent for as long as it lives. Within a launch the two take turns in short rounds
(`arkinfer.bench.turns`). The median over the rounds of a launch of the ratio of the two speeds is
one observation; `arkinfer.bench.confidence` judges these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal, TypeAlias

from arkinfer.bench.cases import Case
from arkinfer.bench.confidence import Interval, paired, pairs_needed
from arkinfer.bench.process import Worker
from arkinfer.bench.turns import Heat, Progress, take_turns
from arkinfer.errors import UsageError

Pairs: TypeAlias = "list[list[tuple[float, float]]]"
"""Seconds of A and B, by launch and round."""

_NOISY = 0.25  # hidden differences above this are more than a quiet machine leaves


@dataclass(frozen=True)
class Rule:
    """When a difference is called one.

    Attributes:
        confidence: that no case is called slower or faster which is not, over all cases together.
        least: the smallest relative difference worth calling.
    """

    confidence: float = 0.99
    least: float = 0.01

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence <= 0.9999:
            raise UsageError(
                f"The confidence cannot be {100 * self.confidence:g} %",
                "It is the share of runs without a false alarm",
                "Give 50 up to 99.99",
            )
        if not 0 <= self.least <= 0.5:
            raise UsageError(f"The smallest effect cannot be {100 * self.least:g} %",
                             fix="Give 0 up to 50")  # fmt: skip

    def alpha(self, cases: int) -> float:
        """The share of errors that each of some cases is allowed (Bonferroni)."""
        return (1 - self.confidence) / max(cases, 1)


@dataclass(frozen=True)
class Difference:
    """How B's speed relates to A's in one case.

    Attributes:
        case: what was timed.
        a: tokens per second of A, the median of all rounds.
        b: those of B.
        speed: B's speed divided by A's, and its interval; ends 0 and infinity: cannot be said.
        rule: see `Rule`.
        observations: the ratio in each launch, if the two ran in turns.
    """

    case: Case
    a: float
    b: float
    speed: Interval
    rule: Rule
    observations: tuple[float, ...] = ()

    @property
    def verdict(self) -> Literal["slower", "faster", "same", "unknown"]:
        """What B is."""
        if not (self.speed.low > 0 and math.isfinite(self.speed.high)):
            return "unknown"
        if self.speed.high < 1 and self.speed.middle <= 1 - self.rule.least:
            return "slower"
        if self.speed.low > 1 and self.speed.middle >= 1 + self.rule.least:
            return "faster"
        return "same"

    @property
    def hidden(self) -> float:
        """The largest relative difference that could be there unseen."""
        return max(abs(1 - self.speed.low), abs(self.speed.high - 1))

    def to_json(self) -> dict[str, Any]:
        """With stable keys; ends of the interval that are unknown are null."""
        known = self.verdict != "unknown"
        return {
            "kind": self.case.kind, "tokens": self.case.tokens, "depth": self.case.depth,
            "a": self.a, "b": self.b,
            "speed": {
                "middle": self.speed.middle,
                "low": self.speed.low if known else None,
                "high": self.speed.high if known else None,
            },
            "verdict": self.verdict,
            "launch_ratios": list(self.observations),
        }  # fmt: skip

    def slower_than(self, most: float) -> bool:
        """Whether B is certainly slower by more than `most`, e.g. 0.05."""
        return self.verdict == "slower" and self.speed.high < 1 - most


def interval_text(speed: Interval) -> str:
    """By how much B is slower or faster, and from where to where, in per cent.

    >>> interval_text(Interval(0.959, 0.948, 0.971))
    '4.1 % (2.9 … 5.2 %)'
    """
    ends = sorted(100 * abs(1 - end) for end in (speed.low, speed.high))
    return f"{percent(100 * abs(1 - speed.middle))} % ({percent(ends[0])} … {percent(ends[1])} %)"


def percent(value: float) -> str:
    """With one decimal where that says something."""
    return f"{value:.1f}" if value < 20 else f"{value:,.0f}"


def verdict(differences: Sequence[Difference], b: str = "B", a: str = "A") -> str:
    """All cases in a sentence or two."""
    confidence = f"{100 * differences[0].rule.confidence:g} % confidence"
    parts: list[str] = []
    for kind in ("slower", "faster"):
        found = [d for d in differences if d.verdict == kind]
        if found:
            texts = [f"{interval_text(d.speed)} in {d.case.name}" for d in found]
            parts.append(f"{b} is {kind} than {a}: by {', by '.join(texts)}; {confidence}.")
    if not parts and any(d.verdict == "unknown" for d in differences):
        return "Nothing can be said with confidence: there are too few launches."
    if not parts:
        hidden = max(d.hidden for d in differences)
        text = percent(100 * hidden)
        if hidden > _NOISY:
            return f"No difference is certain: noise hides any up to {text} %; {confidence}."
        return f"No difference above {text} % is seen; {confidence}."
    return " ".join(parts)


@dataclass
class Observed:
    """What two engines did in turns.

    Attributes:
        pairs: by case.
        ready: the facts of both workers, by launch.
        memory: resident bytes at most of both, by launch.
    """

    pairs: dict[Case, Pairs] = field(default_factory=dict[Case, Pairs])
    ready: list[tuple[dict[str, Any], dict[str, Any]]] = field(
        default_factory=list[tuple[dict[str, Any], dict[str, Any]]]
    )
    memory: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    def differences(self, rule: Rule) -> list[Difference]:
        """What they say."""
        return [
            difference(case, launches, rule, rule.alpha(len(self.pairs)))
            for case, launches in self.pairs.items()
        ]

    def to_json(self, found: Sequence[Difference]) -> dict[str, Any]:
        """Everything, with stable keys; seconds are pairs of A's and B's by launch and round."""
        sides = [
            {
                "first_token_seconds": median(r[i]["first_token_seconds"] for r in self.ready),
                "load_seconds": median(r[i]["load_seconds"] for r in self.ready),
                "peak_rss": max(m[i] for m in self.memory),
            }
            for i in (0, 1)
        ]
        return {
            "launches": len(self.ready),
            "processes": {"a": sides[0], "b": sides[1]},
            "cases": [{**d.to_json(), "seconds": self.pairs[d.case]} for d in found],
        }


def difference(case: Case, launches: Pairs, rule: Rule, alpha: float) -> Difference:
    """Judges a case by the rounds of its launches."""
    ratios = [median(math.log(a / b) for a, b in rounds) for rounds in launches]
    found = paired(ratios, alpha)
    speed = Interval(*(math.exp(v) for v in (found.middle, found.low, found.high)))
    a, b = (median(case.tokens / pair[i] for rounds in launches for pair in rounds) for i in (0, 1))
    return Difference(case, a, b, speed, rule, tuple(math.exp(r) for r in ratios))


def check_launches(launches: int, cases: int, rule: Rule) -> None:
    """Raises UsageError when so few launches cannot give that confidence."""
    needed = pairs_needed(rule.alpha(cases))
    if launches < needed:
        raise UsageError(
            f"{launches} launches cannot give {100 * rule.confidence:g} % confidence in "
            f"{cases} {'case' if cases == 1 else 'cases'}",
            "Each pair of processes is one observation, and so few agree by chance",
            f"Give at least --launches {needed}, or a lower --confidence",
        )


def observe(
    start: Mapping[Literal["a", "b"], Callable[[], Worker]],
    wanted: Sequence[Case],
    *,
    launches: int,
    rounds: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Observed:
    """Runs both in turns, case by case; see `arkinfer.bench.turns.take_turns`.

    Args:
        start: what starts a worker of each.
        wanted: the cases.
        launches: pairs of processes.
        rounds: of each case in a launch, after one that warms up; None: as many as half a second
            holds, at least 3.
        seed: of the order within rounds, and of who starts first.
        progress: called with (done, all) cases.
    """
    heats = [Heat((("a", case), ("b", case)), rounds) for case in wanted]
    names: dict[str, Callable[[], Worker]] = {"a": start["a"], "b": start["b"]}
    turns = take_turns(names, heats, launches=launches, seed=seed, progress=progress)
    pairs = {
        case: [[(r["a", case], r["b", case]) for r in rounds] for rounds in found]
        for case, found in zip(wanted, turns.rounds, strict=True)
    }
    return Observed(
        pairs,
        [(facts["a"], facts["b"]) for facts in turns.ready],
        [(most["a"], most["b"]) for most in turns.memory],
    )
