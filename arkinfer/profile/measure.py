"""Where the time of a step goes: what each kernel took, what it had to move and to compute.

Knows no backend: executables with the feature "times" tell what their kernels took, the section's
listing what these are. The same step is timed again without being measured, so that a reader can
see whether the two agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from time import perf_counter, sleep
from typing import TYPE_CHECKING, cast

import numpy as np

from arkinfer.errors import ArtifactError, UsageError
from arkinfer.profile.cost import VIEWS, Cost, CostModel, stored_bytes
from arkinfer.profile.listing import Listing, Op, read_listing
from arkinfer.runtime.contract import (
    Executable,
    IntArray,
    OpTime,
    Profiler,
    Rows,
    State,
    StepTimes,
    Timed,
)

if TYPE_CHECKING:
    from arkinfer.artifact import Artifact, Section

Progress = Callable[[int, int], object]

PAUSE = 1e-3
"""Seconds between steps: idle threads go to sleep, as they do between two words of an answer."""


@dataclass(frozen=True)
class Kernel:
    """One or several kernels of the runtime that compute the same IR values together.

    Attributes:
        names: as the runtime calls them.
        ops: names of the IR's ops; without views, which cost nothing. Empty: the backend cannot
            tell what it computes.
        path: the torch module that the last of the ops came from; "" for none.
        seconds: of a step.
        cost: what the ops need at least; None: unknown.
    """

    names: tuple[str, ...]
    ops: tuple[str, ...]
    path: str
    seconds: float
    cost: Cost | None


@dataclass(frozen=True)
class Profile:
    """What a step is made of.

    Figures are means of the fastest quarter of the rounds, since whatever disturbs only adds; of
    one round all kernels count or none, so that their sum is that of steps which took place. What
    the measuring took is off, except in `stated`.

    Attributes:
        kernels: in order of execution.
        seconds: of a step that was measured: kernels and the rest.
        stated: of all kernels as the backend said.
        measuring: seconds of a step that the measuring took, which are off.
        expected: the same as the backend estimates it.
        step: seconds of a step that was not measured.
        rounds: seconds of each round's step that was not measured.
    """

    kernels: tuple[Kernel, ...]
    seconds: float
    stated: float
    measuring: float
    expected: float
    step: float
    rounds: tuple[float, ...]

    @property
    def in_kernels(self) -> float:
        """Seconds of all kernels."""
        return sum(kernel.seconds for kernel in self.kernels)

    @property
    def outside(self) -> float:
        """Seconds of a step that no kernel took."""
        return max(0.0, self.seconds - self.in_kernels)

    @property
    def agreement(self) -> float:
        """Kernels and what is outside of them, as a share of the step that was not measured."""
        return (self.in_kernels + self.outside) / self.step


def read_section(artifact: Artifact, section: Section) -> tuple[Listing, dict[str, int]]:
    """The listing of a section, and what its quantized weights take in the file.

    Raises:
        ArtifactError: the artifact is older than listings are, or the listing is damaged.
    """
    if section.ir not in artifact:
        raise ArtifactError(
            f'The section "{section.backend}" does not say what it was compiled from',
            f"It has no entry {section.ir}",
            "Build the artifact again",
        )
    listing = read_listing(artifact.read(section.ir).decode("utf-8", "replace"))
    return listing, stored_bytes(artifact, section, listing.weights)


def measure(
    executable: Executable,
    listing: Listing,
    stored: dict[str, int],
    *,
    depth: int,
    tokens: int,
    rounds: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Profile:
    """Profiles `tokens` new tokens after `depth` others, after one round that is not counted.

    Args:
        executable: opened to be observed.
        listing: of its section.
        stored: bytes of the quantized weights.
        depth: tokens in the caches before.
        tokens: new ones; more than a chunk take several steps, which count as one.
        rounds: that are counted; None: as many as a second holds, 5 to 200.
        seed: of the token ids, which are random.
        progress: called with (done, all) rounds.

    Raises:
        UsageError: the executable cannot tell, or a number is out of range.
    """
    _check(executable, depth, tokens, rounds)
    ids = np.random.default_rng(seed).integers(0, executable.vocab_size, depth + tokens)
    state = executable.new_state(depth + tokens)
    steps = _steps(ids, depth, executable.chunk)
    before = [replace(step, rows="none") for step in _steps(ids[:depth], 0, executable.chunk)]
    profiler = cast(Timed, state).profiler()
    try:
        _run(profiler, before)
        seconds = _time(profiler, state, steps, rounds, progress, 0)
    finally:
        times = profiler.finish()
    seconds = _time(state, state, steps, len(seconds), progress, len(seconds) + 1)
    times = times[len(before) + len(steps) :]
    timed = [times[at : at + len(steps)] for at in range(0, len(times), len(steps))]
    return _summary(listing, stored, steps, timed, seconds)


@dataclass(frozen=True)
class _Step:
    tokens: IntArray
    depth: int
    rows: Rows


def _steps(ids: IntArray, depth: int, chunk: int) -> list[_Step]:
    """The steps for all ids from the `depth`-th on; the last one gives logits."""
    starts = range(depth, len(ids), chunk)
    return [
        _Step(ids[start : start + chunk], start, "last" if start == starts[-1] else "none")
        for start in starts
    ]


def _time(
    runner: State | Profiler,
    state: State,
    steps: Sequence[_Step],
    rounds: int | None,
    progress: Progress | None,
    done: int,
) -> list[float]:
    """Seconds of each round, after one that is not counted; the state is left as it was."""
    length = state.length
    seconds: list[float] = []
    while rounds is None or len(seconds) <= rounds:
        sleep(PAUSE)
        begin = perf_counter()
        _run(runner, steps)
        seconds.append(perf_counter() - begin)
        state.truncate(length)
        if rounds is None and len(seconds) == 2:
            rounds = rounds_within(seconds[1])
        if rounds is not None and progress is not None:
            progress(done + len(seconds), 2 * (rounds + 1))
    return seconds[1:]


def _run(runner: State | Profiler, steps: Sequence[_Step]) -> None:
    for step in steps:
        runner.step(step.tokens, rows=step.rows)


def rounds_within(seconds: float) -> int:
    """How many rounds of so many seconds a second holds; at least 5, at most 200."""
    return max(5, min(200, int(1 / max(seconds, 1e-3))))


def fastest(rounds: int) -> int:
    """How many of the rounds count: a quarter."""
    return (rounds + 3) // 4


def _summary(
    listing: Listing,
    stored: dict[str, int],
    steps: Sequence[_Step],
    timed: Sequence[Sequence[StepTimes]],
    seconds: Sequence[float],
) -> Profile:
    """Means over the fastest rounds; kernels of several steps are added."""
    totals = [sum(times.seconds for times in one) for one in timed]
    chosen = sorted(range(len(timed)), key=totals.__getitem__)[: fastest(len(timed))]
    total = fmean(totals[number] for number in chosen)
    expected = fmean(sum(times.measuring for times in timed[number]) for number in chosen)
    usual = fmean(sorted(seconds)[: fastest(len(seconds))])
    factor = _factor(total - usual, expected)
    groups: dict[tuple[str, ...], _Group] = {}
    for step, *rounds in zip(steps, *(timed[number] for number in chosen), strict=True):
        costs = CostModel(
            listing, stored, tokens=len(step.tokens), depth=step.depth, rows=step.rows == "last"
        )
        for values, group in _grouped(listing, rounds).items():
            group.cost = costs.of(group.ops, group.rows) if group.ops else None
            groups[values] = groups[values].plus(group) if values in groups else group
    return Profile(
        tuple(group.kernel(len(chosen), factor) for group in groups.values()),
        total - factor * expected,
        sum(group.seconds for group in groups.values()) / len(chosen),
        factor * expected,
        expected,
        usual,
        tuple(seconds),
    )


def _factor(added: float, expected: float) -> float:
    """What to multiply the estimate of the measuring's cost by.

    An estimate is made on kernels that are always warm; between those of a model it takes more.
    A step that took longer by more than the double did so for another reason, and shall show it.
    """
    return min(2.0, max(0.5, added / expected)) if expected > 0 else 0.0


@dataclass
class _Group:
    """Kernels that compute the same values."""

    ops: list[Op]
    names: dict[str, None] = field(default_factory=dict[str, None])
    seconds: float = 0.0
    measuring: float = 0.0
    rows: int | None = None
    cost: Cost | None = None

    def plus(self, other: _Group) -> _Group:
        cost = self.cost and other.cost and self.cost.plus(other.cost)
        names, measuring = self.names | other.names, self.measuring + other.measuring
        return _Group(self.ops, names, self.seconds + other.seconds, measuring, None, cost)

    def kernel(self, rounds: int, factor: float) -> Kernel:
        ops = [op for op in self.ops if op.name not in VIEWS] or self.ops
        path = next((op.path for op in reversed(ops) if op.path), "")
        seconds = max(0.0, self.seconds - factor * self.measuring) / rounds
        names = tuple(dict.fromkeys(op.name for op in ops))
        return Kernel(tuple(self.names), names, path, seconds, self.cost)


def _grouped(listing: Listing, rounds: Sequence[StepTimes]) -> dict[tuple[str, ...], _Group]:
    """What one step's kernels took in all rounds together, in order of execution."""
    order = {value: index for index, op in enumerate(listing.ops) for value in op.results}
    groups: dict[tuple[str, ...], _Group] = {}
    for times in rounds:
        for op_time in times.ops:
            known = sorted((v for v in op_time.values if v in order), key=order.__getitem__)
            values = tuple(known) or (f"?{op_time.kernel}",)
            if values not in groups:
                indices = dict.fromkeys(order[value] for value in known)
                groups[values] = _Group([listing.ops[index] for index in indices])
            _note(groups[values], op_time)
    return groups


def _note(group: _Group, time: OpTime) -> None:
    group.names[time.kernel] = None
    group.seconds += time.seconds
    group.measuring += time.measuring
    group.rows = time.rows if group.rows is None else group.rows


def _check(executable: Executable, depth: int, tokens: int, rounds: int | None) -> None:
    if "times" not in executable.features:
        raise UsageError(
            "This section cannot be profiled",
            "Its backend does not tell what its kernels take",
            "Profile another section, if the file has one: --backend NAME",
        )
    for name, number, least in (
        ("depth", depth, 0), ("number of tokens", tokens, 1), ("number of rounds", rounds, 1),
    ):  # fmt: skip
        if number is not None and number < least:
            raise UsageError(f"The {name} cannot be {number}", fix=f"Give at least {least}")
    if depth + tokens > executable.max_context:
        raise UsageError(
            f"{tokens} tokens at depth {depth} do not fit",
            f"The context holds {executable.max_context} tokens",
            "Give a smaller depth, or fewer tokens",
        )
