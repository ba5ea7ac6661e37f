"""Has engines take turns in short rounds, so that whatever else the machine does meets all of them.

A launch is a set of fresh processes. In a round, each entry of a heat runs once, in an order drawn
by lot; what is compared is compared within a round. Knows no verdict and no file.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from arkinfer.bench.cases import Case
from arkinfer.bench.process import Worker

Progress: TypeAlias = Callable[[int, int], object]
Entry: TypeAlias = tuple[str, Case]
"""The name of an engine, and what it does."""
Round: TypeAlias = "dict[Entry, float]"
"""Seconds of each entry."""

_LEAST, _MOST = 3, 20  # rounds of a heat in a launch, unless their number was given
_ENOUGH = 0.6  # seconds after which no further round of a heat begins


@dataclass(frozen=True)
class Heat:
    """What is measured in one round.

    Attributes:
        entries: each runs once in a round.
        rounds: in a launch; None: as many as half a second holds, at least 3.
        warm: whether a round that does not count comes first.
    """

    entries: tuple[Entry, ...]
    rounds: int | None = None
    warm: bool = True


@dataclass
class Turns:
    """What engines did in turns.

    Attributes:
        rounds: by heat and launch.
        ready: the facts of each engine, by launch.
        memory: resident bytes at most of each, by launch.
    """

    rounds: list[list[list[Round]]]
    ready: list[dict[str, dict[str, Any]]] = field(default_factory=list[dict[str, dict[str, Any]]])
    memory: list[dict[str, int]] = field(default_factory=list[dict[str, int]])


def take_turns(
    start: Mapping[str, Callable[[], Worker]],
    heats: Sequence[Heat],
    *,
    launches: int,
    seed: int = 0,
    pause: float = 0.0,
    progress: Progress | None = None,
) -> Turns:
    """Runs all heats in each launch; no process is left behind, whatever happens.

    Args:
        start: what starts a worker of each engine.
        heats: what they do.
        launches: sets of processes.
        seed: of the order within rounds, and of who starts first.
        pause: seconds between two samples, for engines whose threads spin after their work.
        progress: called with (done, all) heats.
    """
    lot = random.Random(seed)
    result = Turns([[] for _ in heats])
    for number in range(launches):
        workers: dict[str, Worker] = {}
        try:
            facts: dict[str, dict[str, Any]] = {}
            for name in lot.sample(list(start), len(start)):
                workers[name] = start[name]()
                facts[name] = workers[name].ready()  # no other one loads meanwhile
            result.ready.append(facts)
            for index, heat in enumerate(heats):
                result.rounds[index].append(_run(workers, heat, lot, pause))
                if progress is not None:
                    progress(number * len(heats) + index + 1, launches * len(heats))
            result.memory.append({name: workers[name].memory()["peak"] for name in start})
        except BaseException:
            for worker in workers.values():
                worker.kill()
            raise
        for worker in workers.values():
            worker.close()
    return result


def _run(
    workers: Mapping[str, Worker], heat: Heat, lot: random.Random, pause: float
) -> list[Round]:
    """The rounds of one heat in one launch."""
    found: list[Round] = []
    if heat.warm:
        _round(workers, heat, lot, pause)
    began = time.monotonic()
    while True:
        found.append(_round(workers, heat, lot, pause))
        late = time.monotonic() - began > _ENOUGH and len(found) >= _LEAST
        if len(found) == (heat.rounds or _MOST) or (heat.rounds is None and late):
            return found


def _round(workers: Mapping[str, Worker], heat: Heat, lot: random.Random, pause: float) -> Round:
    seconds: Round = {}
    for name, case in lot.sample(heat.entries, len(heat.entries)):
        if pause:
            time.sleep(pause)
        seconds[name, case] = workers[name].seconds(case)
    return seconds
