"""How far a build is, from what TensorRT tells of phases and steps."""

from __future__ import annotations

import threading

import pytest

from arkinfer_trt.messages import PARTS, Phases


class Told(list[int]):
    def report(self, done: int, total: int) -> None:
        assert total == PARTS
        self.append(done)


@pytest.fixture
def told() -> Told:
    return Told()


def test_steps_of_phases_within_phases_count(told: Told) -> None:
    phases = Phases(told.report)
    phases.start("all", None, 4)
    phases.step("all", 0)
    phases.start("part", "all", 2)
    phases.step("part", 0)
    phases.start("piece", "part", 2)
    phases.step("piece", 0)
    phases.finish("piece")
    phases.finish("part")
    phases.step("all", 1)
    assert told == [0, 250, 375, 437, 500]


def test_it_never_goes_back(told: Told) -> None:
    phases = Phases(told.report)
    for name in ("first", "second"):
        phases.start(name, None, 10)
        for step in range(10):
            assert phases.step(name, step)
        phases.finish(name)
    assert told == sorted(set(told))
    assert told[-1] == PARTS


def test_phases_that_nobody_began_do_no_harm(told: Told) -> None:
    phases = Phases(told.report)
    phases.finish("nothing")
    assert phases.step("nothing", 3)
    phases.start("orphan", "nothing", 0)
    assert phases.step("orphan", 9)


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), ValueError("no")])
def test_what_a_report_raises_stops_the_work_and_is_kept(raised: BaseException) -> None:
    def report(done: int, total: int) -> None:
        if done:
            raise raised

    phases = Phases(report)
    phases.start("all", None, 2)
    assert not phases.step("all", 0)
    assert not phases.step("all", 1)
    phases.finish("all")
    assert phases.stopped is raised


def test_threads_may_tell_at_once(told: Told) -> None:
    phases = Phases(told.report)
    phases.start("all", None, 8)

    def work(number: int) -> None:
        name = f"part {number}"
        phases.start(name, "all", 50)
        for step in range(50):
            phases.step(name, step)
        phases.finish(name)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    phases.step("all", 7)
    assert told == sorted(set(told))
    assert told[-1] == PARTS
