"""Which processors are used, on machines described by files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from arkinfer.machine.cores import usable_cores
from arkinfer.machine.procfs import System


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def make(siblings: list[str], capacities: list[int] | None = None, quota: str = "") -> System:
        for cpu, text in enumerate(siblings):
            folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}"
            (folder / "topology").mkdir(parents=True)
            (folder / "topology/thread_siblings_list").write_text(text + "\n")
            if capacities:
                (folder / "cpu_capacity").write_text(str(capacities[cpu]))
        if quota:
            (tmp_path / "proc/self").mkdir(parents=True)
            (tmp_path / "proc/self/cgroup").write_text("0::/box\n")
            (tmp_path / "sys/fs/cgroup/box").mkdir(parents=True)
            (tmp_path / "sys/fs/cgroup/cgroup.controllers").write_text("cpu")
            (tmp_path / "sys/fs/cgroup/box/cpu.max").write_text(quota)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(len(siblings))))
        return System(tmp_path)

    return make


def test_one_hardware_thread_of_each_core(machine):
    assert usable_cores(machine(["0,4", "1,5", "2,6", "3,7", "0,4", "1,5", "2,6", "3,7"])) == (
        0, 1, 2, 3,
    )  # fmt: skip


def test_a_core_is_used_by_whichever_thread_is_allowed(machine, monkeypatch):
    system = machine(["0-1", "0-1", "2-3", "2-3"])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2, 3})
    assert usable_cores(system) == (1, 2)


def test_little_cores_are_left_out_and_the_fastest_come_first(machine):
    each = [str(cpu) for cpu in range(8)]
    assert usable_cores(machine(each, [256] * 4 + [768, 768, 1024, 1024])) == (6, 7, 4, 5)


@pytest.mark.parametrize(
    ("quota", "count"), [("max 100000", 4), ("150000 100000", 1), ("300000 100000", 3), ("1 9", 1)]
)
def test_a_container_grants_so_many(machine, quota: str, count: int):
    assert len(usable_cores(machine(["0", "1", "2", "3"], quota=quota))) == count


def test_a_system_that_says_nothing(machine, monkeypatch):
    system = machine([])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert usable_cores(system) == (3, 5)


def test_this_machine():
    assert set(usable_cores()) <= os.sched_getaffinity(0)
    assert usable_cores()
