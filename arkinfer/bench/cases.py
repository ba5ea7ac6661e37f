"""What is timed: prompts of several lengths, single tokens and small steps at several depths.

Knows no text, no sampling and no process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Literal, Protocol

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
            "decode": `tokens` one by one after `depth` others;
            "step": `tokens` at once after `depth` others, the logits of all wanted.
        depth: tokens in the cache before.
        tokens: tokens that are timed.
    """

    kind: Literal["prefill", "decode", "step"]
    depth: int
    tokens: int

    @property
    def name(self) -> str:
        """The case for people, e.g. "prefill 512", "decode at 1,024" or "step of 8 at 1,024"."""
        if self.kind == "prefill":
            return f"prefill {self.tokens:,}"
        size = f" of {self.tokens}" if self.kind == "step" else ""
        return f"{self.kind}{size} at {self.depth:,}"


def cases(lengths: Sequence[int], depths: Sequence[int], tokens: int, context: int) -> list[Case]:
    """Prefills of `lengths` and decodes of `tokens` at `depths`, checked against the context.

    Raises:
        UsageError: a number below its minimum, a case that the context does not hold, or no case.
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
    if not result:
        raise UsageError("There is nothing to measure", fix="Give a prompt length or a depth")
    return result


class Timed(Protocol):
    """An engine as a benchmark sees it: one sequence of tokens that it chooses itself.

    What is timed may return seconds, where an engine has a better clock than the caller. `step` may
    be missing where no case is one.
    """

    def seek(self, depth: int) -> None:
        """Makes the cache hold `depth` tokens; the time for it does not count."""
        ...

    def prefill(self, count: int) -> float | None:
        """Appends `count` tokens at once, and computes what the next one would be."""
        ...

    def decode(self, count: int) -> float | None:
        """Appends `count` tokens one by one."""
        ...

    def step(self, count: int) -> float | None:
        """Appends `count` tokens at once, and computes what would follow each of them."""
        ...


class TimedExecutable:
    """An executable with one state, fed with random tokens.

    Args:
        executable: what runs.
        capacity: the most tokens that any case needs.
        seed: of the token ids.
    """

    def __init__(self, executable: Executable, capacity: int, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self._ids: list[int] = random.integers(0, executable.vocab_size, capacity).tolist()
        self._session = Session(executable.new_state(capacity), executable.chunk)

    def seek(self, depth: int) -> None:
        self._session.resume(self._ids[:depth])
        if missing := self._ids[len(self._session.ids) : depth]:
            self._session.extend(missing)

    def prefill(self, count: int) -> None:
        start = len(self._session.ids)
        self._session.extend(self._ids[start : start + count])

    def decode(self, count: int) -> None:
        start = len(self._session.ids)
        for token in self._ids[start : start + count]:
            self._session.extend([token])

    def step(self, count: int) -> None:
        start = len(self._session.ids)
        for _ in self._session.rows(self._ids[start : start + count]):
            pass


def sample(engine: Timed, case: Case, clock: Clock = perf_counter) -> float:
    """Seconds that a case takes once."""
    engine.seek(case.depth)
    run: Callable[[int], float | None] = getattr(engine, case.kind)
    start = clock()
    own = run(case.tokens)
    return clock() - start if own is None else own
