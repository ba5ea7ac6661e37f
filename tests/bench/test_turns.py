"""Turns: who runs when, with whom, and what is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from arkinfer.bench.cases import Case
from arkinfer.bench.process import Worker
from arkinfer.bench.turns import Heat, take_turns

FEW, MANY, STEP = Case("decode", 0, 2), Case("prefill", 0, 8), Case("step", 0, 4)


class Scribe:
    """Stands for a process: it notes what it is asked."""

    def __init__(self, name: str, log: list[tuple[str, object]], fails: bool = False) -> None:
        self._name, self._log, self._fails = name, log, fails
        log.append((name, "started"))

    def ready(self) -> dict[str, Any]:
        self._log.append((self._name, "ready"))
        return {"name": self._name}

    def seconds(self, case: Case) -> float:
        if self._fails:
            raise MemoryError
        self._log.append((self._name, case))
        return float(len(self._log))

    def memory(self) -> dict[str, int]:
        return {"peak": len(self._name)}

    def close(self) -> None:
        self._log.append((self._name, "closed"))

    def kill(self) -> None:
        self._log.append((self._name, "killed"))


def start(log: list[tuple[str, object]], fails: str = "") -> dict[str, Callable[[], Worker]]:
    def starter(name: str) -> Callable[[], Worker]:
        return lambda: cast(Worker, Scribe(name, log, name == fails))

    return {name: starter(name) for name in ("a", "bb", "ccc")}


def test_everybody_of_a_heat_runs_once_in_a_round():
    log: list[tuple[str, object]] = []
    seen: list[tuple[int, int]] = []
    heats = [
        Heat((("a", FEW), ("a", STEP), ("bb", FEW), ("ccc", FEW)), rounds=5),
        Heat((("a", MANY), ("ccc", MANY)), rounds=1, warm=False),
    ]
    found = take_turns(start(log), heats, launches=2, progress=lambda *n: seen.append(n))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for heat, launches, rounds in zip(heats, found.rounds, (5, 1), strict=True):
        assert [len(launch) for launch in launches] == [rounds] * 2
        assert all(set(r) == set(heat.entries) for launch in launches for r in launch)
    assert log.count(("a", STEP)) == 2 * 6  # one round of each launch warms up
    assert log.count(("ccc", MANY)) == 2
    assert found.memory == [{"a": 1, "bb": 2, "ccc": 3}] * 2
    assert [facts["bb"]["name"] for facts in found.ready] == ["bb", "bb"]
    orders = {tuple(e for e in log if e[1] in (FEW, STEP))[i : i + 4] for i in range(0, 48, 4)}
    assert len(orders) > 3  # by lot
    assert all(set(order) == {("a", FEW), ("a", STEP), ("bb", FEW), ("ccc", FEW)}
               for order in orders)  # fmt: skip


def test_one_loads_while_no_other_one_does():
    log: list[tuple[str, object]] = []
    take_turns(start(log), [Heat((("a", FEW),), rounds=1)], launches=1)
    first = [(name, what) for name, what in log if what in ("started", "ready")]
    assert [what for _, what in first] == ["started", "ready"] * 3
    assert all(first[i][0] == first[i + 1][0] for i in (0, 2, 4))


def test_nobody_is_left_behind():
    log: list[tuple[str, object]] = []
    with pytest.raises(MemoryError):
        take_turns(start(log, fails="bb"), [Heat((("a", FEW), ("bb", FEW)))], launches=1)
    assert {name for name, what in log if what == "killed"} == {"a", "bb", "ccc"}
