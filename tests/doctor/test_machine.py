"""Processor and memory: this machine's, a container's, and one that tells nothing."""

from __future__ import annotations

from collections.abc import Callable

from arkinfer.doctor import machine
from arkinfer.doctor.finding import Finding
from arkinfer.doctor.host import Host
from arkinfer.machine.environment import Environment

Hosts = Callable[..., Host]


def facts(findings: list[Finding]) -> dict[str, tuple[str, str]]:
    return {finding.name: (finding.state, finding.detail) for finding in findings}


def test_this_machine():
    found = machine.check(Host())
    assert [f.state for f in found] == ["ok"] * 3
    assert "hardware threads" in found[0].detail
    assert " free of " in found[1].detail


def test_a_machine_that_tells_nothing(make_host: Hosts):
    assert facts(machine.check(make_host()))["memory"] == (
        "not known", "/proc/meminfo cannot be read"
    )  # fmt: skip
    assert facts(machine.check(make_host()))["processor"][0] == "not known"


def test_a_container_grants_less_than_there_is():
    gib = 1 << 30
    assert machine.available(Environment()) is None
    assert machine.available(Environment(memory_available=8 * gib)) == 8 * gib
    limited = Environment(memory_available=8 * gib, memory_limit=2.0 * gib)
    assert machine.available(limited) == 2 * gib
    free = Environment(memory_available=8 * gib, memory_limit="unlimited")
    assert machine.available(free) == 8 * gib


def test_a_board(make_host: Hosts):
    host = make_host()
    (host.root / "proc").mkdir()
    (host.root / "proc/meminfo").write_text("MemTotal: 7800000 kB\nMemAvailable: 5242880 kB\n")
    (host.root / "proc/cpuinfo").write_text(
        "processor\t: 0\nFeatures\t: fp asimd asimddp crc32\n"
        "CPU implementer\t: 0x41\nCPU part\t: 0xd42\n"
    )
    found = facts(machine.check(host))
    assert found["processor"] == ("ok", "Cortex-A78AE, asimd asimddp")
    assert found["memory"] == ("ok", "5.0 GiB free of 7.4 GiB")
