"""What is read of a machine, on file trees of several kinds; when two are comparable."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from arkinfer import __version__
from arkinfer.machine.environment import (
    Environment,
    alike,
    disturbed,
    noted,
    ranges,
    read_environment,
)
from tests.machine.machines import CONTAINER, LAPTOP, ORIN, POD, build

OF_PYTHON = {"python", "arkinfer", "packages"}


def measured(environment: Environment) -> dict[str, Any]:
    """What was read from files."""
    return {
        f.name: value
        for f in fields(environment)
        if f.name not in OF_PYTHON and (value := getattr(environment, f.name)) is not None
    }


def test_a_laptop(tmp_path: Path):
    assert measured(read_environment(build(tmp_path, LAPTOP))) == {
        "machine": "LENOVO 21CB",
        "cpu": "12th Gen Intel(R) Core(TM) i5-1240P",
        "isa": ("avx2", "avx_vnni", "f16c", "fma"),
        "physical_cores": 2,
        "logical_cores": 4,
        "affinity": (0, 1, 2, 3),
        "cpu_quota": "unlimited",
        "memory_limit": "unlimited",
        "governors": ("powersave",),
        "frequency": 1200.0,
        "max_frequency": 4400.0,
        "fixed_clocks": False,
        "temperature": 61.0,
        "throttle_events": 28,
        "quota_stops": 0,
        "stolen": 0.0,
        "load": 0.42,
        "memory": 16134532 << 10,
        "memory_available": 9001232 << 10,
        "kernel": "Linux 6.8.0-45-generic",
        "virtual": False,
        "container": "none",
    }


def test_a_container_with_limits_of_version_1(tmp_path: Path):
    assert measured(read_environment(build(tmp_path, CONTAINER))) == {
        "cpu": "AMD EPYC 7B13",
        "isa": ("avx2", "avx512f", "f16c", "fma"),
        "affinity": (0, 2, 3),
        "cpu_quota": 2.5,
        "memory_limit": 4 << 30,
        "quota_stops": 17,
        "stolen": 12.34,
        "virtual": True,
        "container": "docker",
    }


def test_the_tightest_limit_of_nested_groups_counts(tmp_path: Path):
    found = read_environment(build(tmp_path, POD))
    assert (found.cpu_quota, found.memory_limit) == (1.5, 1 << 30)
    assert found.container == "kubepods"


def test_a_jetson(tmp_path: Path):
    assert measured(read_environment(build(tmp_path, ORIN))) == {
        "machine": "NVIDIA Jetson Orin Nano Developer Kit",
        "cpu": "Cortex-A78AE",
        "isa": ("asimd", "asimddp", "asimdhp"),
        "logical_cores": 2,
        "affinity": (0, 1),
        "governors": ("schedutil",),
        "max_frequency": 1510.4,
        "fixed_clocks": True,
        "gpu_frequency": 306.0,
        "power_mode": "mode 2",
        "power": 6.56,
        "temperature": 46.25,
        "throttle_events": 4,
        "virtual": False,
        "container": "none",
    }


def test_an_unknown_arm_core_is_told_by_its_numbers(tmp_path: Path):
    text = "CPU implementer\t: 0x61\nCPU part\t: 0x024\n"
    assert read_environment(build(tmp_path, {"proc/cpuinfo": text})).cpu == "Arm part 0x61 0x024"


def test_where_nothing_can_be_read_nothing_is_known(tmp_path: Path):
    found = read_environment(tmp_path)
    assert measured(found) == {}
    shown = dict(found.rows())
    assert shown["CPU"] is None
    assert shown["Python"] == platform.python_version()


@pytest.mark.parametrize(
    "files",
    [
        {"proc/loadavg": "", "proc/stat": "cpu", "proc/meminfo": "MemTotal: much\n"},
        {"proc/cpuinfo": "\x00\xff:::\nflags", "proc/self/status": "Cpus_allowed_list: x-y\n"},
        {"proc/self/cgroup": "0::/../../etc\n:\n3\n", "sys/fs/cgroup/cgroup.controllers": "cpu"},
        {"sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "<unknown>\n"},
    ],
)
def test_odd_files_are_not_measured(tmp_path: Path, files: dict[str, str]):
    found = read_environment(build(tmp_path, files))
    assert found.load is found.stolen is found.memory is found.frequency is None
    assert not found.affinity


def test_this_machine():
    found = read_environment()
    assert found.arkinfer == __version__
    assert dict(found.packages or ())["numpy"]
    assert alike(found, read_environment()) == []
    if platform.system() == "Linux":
        assert found.affinity == tuple(sorted(os.sched_getaffinity(0)))
        assert found.memory is not None
        assert found.memory_available is not None
        assert 0 < found.memory_available < found.memory
        assert found.kernel == f"Linux {platform.release()}"


def test_json_and_back(tmp_path: Path):
    for name, files in {"laptop": LAPTOP, "container": CONTAINER, "orin": ORIN}.items():
        found = read_environment(build(tmp_path / name, files))
        facts = json.loads(json.dumps(found.to_json()))
        assert Environment.from_json(facts) == found
        assert Environment.from_json({**facts, "later": 1}) == found
        assert list(facts) == [f.name for f in fields(Environment)]


@pytest.mark.parametrize("facts", [{"load": "high"}, {"packages": {"numpy": 1}}, {"isa": 3}])
def test_json_of_another_kind_is_refused(facts: dict[str, Any]):
    with pytest.raises(ValueError, match="validation error"):
        Environment.from_json(facts)


def test_rows_for_people(tmp_path: Path):
    rows = dict(read_environment(build(tmp_path, LAPTOP)).rows())
    assert rows["CPUs allowed"] == "0-3"
    assert rows["memory"] == "15.4 GiB"
    assert rows["governor"] == "powersave"
    assert rows["fixed clocks"] == "no"
    assert rows["throttle events"] == "28 since start"
    assert rows["power mode"] is None


def test_what_makes_machines_incomparable():
    one = Environment(
        cpu="A", isa=("avx2", "fma"), affinity=(0, 1), cpu_quota="unlimited",
        governors=("performance",), power_mode="MAXN", packages=(("onnxruntime", "1.23"),),
    )  # fmt: skip
    assert alike(one, one) == []
    for change, text in [
        ({"cpu": "B"}, "CPU: A, B"),
        ({"isa": ("avx512f", "fma")}, "instruction sets: only avx2, only avx512f"),
        ({"affinity": (0,)}, "CPUs allowed: 0-1, 0"),
        ({"cpu_quota": 1.5}, "CPU quota: unlimited, 1.5 cores"),
        ({"governors": ("powersave",)}, "governor: performance, powersave"),
        ({"power_mode": None}, "power mode: MAXN, not measured"),
        ({"packages": (("onnxruntime", "1.24"),)}, "packages: onnxruntime 1.23, onnxruntime 1.24"),
    ]:
        assert alike(one, replace(one, **change)) == [text]
        assert noted(one, replace(one, **change)) == []


def test_what_is_only_noted():
    one = Environment(kernel="Linux 6.1", arkinfer="0.1.0", load=0.1, temperature=40.0)
    other = replace(one, kernel="Linux 6.2", arkinfer="0.2.0", load=3.0, temperature=80.0)
    assert alike(one, other) == []
    assert noted(one, other) == ["kernel: Linux 6.1, Linux 6.2", "arkinfer: 0.1.0, 0.2.0"]


def test_what_slowed_a_machine_down():
    before = Environment(throttle_events=4, quota_stops=10)
    assert disturbed(before, before) == []
    assert disturbed(before, Environment(throttle_events=6, quota_stops=1010)) == [
        "heat or current slowed the processor 2 times",
        "the CPU quota of the cgroup stopped its processes 1,000 times",
    ]
    assert disturbed(before, Environment(throttle_events=5)) == [
        "heat or current slowed the processor once"
    ]
    assert disturbed(before, Environment()) == []


def test_ranges():
    assert ranges([]) == ""
    assert ranges([0, 2, 3, 4, 7]) == "0,2-4,7"
