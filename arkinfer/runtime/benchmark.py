"""How fast an executable is: prompts of several lengths, single tokens at several depths.

Knows no text and no sampling. Rounds are interleaved, so that whatever else the machine does
touches all measurements alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal

import numpy as np

from arkinfer.errors import UsageError
from arkinfer.runtime.contract import Executable
from arkinfer.runtime.session import Session

Clock = Callable[[], float]


@dataclass(frozen=True)
class Case:
    """One thing that is measured.

    Attributes:
        kind: "prefill": `tokens` at once into an empty cache, the last row's logits wanted;
            "decode": `tokens` one by one after `depth` others.
        depth: tokens in the cache before.
        tokens: tokens that are timed.
    """

    kind: Literal["prefill", "decode"]
    depth: int
    tokens: int


@dataclass
class Measurement:
    """Seconds of each round of a case."""

    case: Case
    seconds: list[float] = field(default_factory=list[float])

    @property
    def rates(self) -> list[float]:
        """Tokens per second of each round."""
        return [self.case.tokens / s for s in self.seconds]

    @property
    def median(self) -> float:
        """Tokens per second."""
        return statistics.median(self.rates)

    @property
    def spread(self) -> tuple[float, float]:
        """The slowest and the fastest round, tokens per second."""
        return min(self.rates), max(self.rates)


def cases(lengths: Sequence[int], depths: Sequence[int], tokens: int, context: int) -> list[Case]:
    """Prefills of `lengths` and decodes of `tokens` at `depths`, checked against the context.

    Raises:
        UsageError: a number below its minimum, or a case that the context does not hold.
    """
    for name, numbers, least in (
        ("prompt length", lengths, 1), ("depth", depths, 0), ("number of tokens", [tokens], 1),
    ):  # fmt: skip
        for number in numbers:
            if number < least:
                raise UsageError(f"A {name} cannot be {number}", fix=f"Give at least {least}")
    result = [Case("prefill", 0, n) for n in dict.fromkeys(lengths)]
    result += [Case("decode", n, tokens) for n in dict.fromkeys(depths)]
    for case in result:
        if case.depth + case.tokens > context:
            raise UsageError(
                f"A {case.kind} of {case.tokens} tokens at depth {case.depth} does not fit",
                f"The context holds {context} tokens",
                "Give shorter lengths or depths",
            )
    return result


def measure(
    executable: Executable,
    wanted: Sequence[Case],
    *,
    rounds: int,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
    clock: Clock = perf_counter,
) -> list[Measurement]:
    """Times the cases, after one round that is not counted.

    Args:
        executable: what runs.
        wanted: see `cases`.
        rounds: rounds that are counted.
        seed: of the token ids, which are random.
        progress: called with (done, all) tokens.
        clock: seconds.
    """
    if rounds < 1:
        raise UsageError(f"There cannot be {rounds} rounds", fix="Give at least 1")
    if not wanted:
        raise UsageError("There is nothing to measure", fix="Give a prompt length or a depth")
    random = np.random.default_rng(seed)
    capacity = max(case.depth + case.tokens for case in wanted)
    ids: list[int] = random.integers(0, executable.vocab_size, capacity).tolist()
    session = Session(executable.new_state(capacity), executable.chunk)
    measurements = [Measurement(case) for case in wanted]
    # The cache is filled to each depth once a round: that work counts for progress only.
    done, total = 0, (rounds + 1) * sum(case.depth + case.tokens for case in wanted)
    for number in range(rounds + 1):
        for measurement in measurements:
            seconds = _once(session, ids, measurement.case, clock)
            if number:
                measurement.seconds.append(seconds)
            done += measurement.case.depth + measurement.case.tokens
            if progress is not None:
                progress(done, total)
    return measurements


def _once(session: Session, ids: list[int], case: Case, clock: Clock) -> float:
    end = case.depth + case.tokens
    session.resume(ids[: case.depth])
    if missing := ids[len(session.ids) : case.depth]:
        session.extend(missing)
    start = clock()
    if case.kind == "prefill":
        session.extend(ids[:end])
    else:
        for token in ids[case.depth : end]:
            session.extend([token])
    return clock() - start
