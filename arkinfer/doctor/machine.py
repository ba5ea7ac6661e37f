"""Processor, memory and the Python that runs this, as `arkinfer.machine.environment` reads them.

Knows no backend.
"""

from __future__ import annotations

import platform
import sys
from typing import TypeGuard

from arkinfer.doctor.finding import Finding
from arkinfer.doctor.host import Host
from arkinfer.machine.environment import Environment, read_environment
from arkinfer.words import human


def check(host: Host) -> list[Finding]:
    """What this machine is."""
    found = read_environment(host.root, packages=())
    where = [f"{name}: {value}" for name, value in found.rows() if value is not None]
    python = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    return [_processor(found, tuple(where)), _memory(found), _python(python)]


def _processor(found: Environment, notes: tuple[str, ...]) -> Finding:
    if found.cpu is None and found.isa is None:
        detail = "/proc/cpuinfo cannot be read or names no processor"
        return Finding("processor", "not known", detail, notes=notes)
    cores = len(found.affinity) if found.affinity is not None else found.logical_cores
    parts = [
        found.cpu or "a processor without a name",
        f"{cores} hardware threads" if cores else "",
        f"{found.cpu_quota:g} cores' worth of time" if _is_number(found.cpu_quota) else "",
        "no vector instructions known" if not found.isa else " ".join(found.isa),
    ]
    return Finding("processor", "ok", ", ".join(filter(None, parts)), notes=notes)


def _memory(found: Environment) -> Finding:
    free = available(found)
    if free is None:
        return Finding("memory", "not known", "/proc/meminfo cannot be read")
    detail = f"{human(free)} free"
    if found.memory is not None:
        detail += f" of {human(found.memory)}"
    if _is_number(found.memory_limit):
        detail += f", a container's limit is {human(int(found.memory_limit))}"
    return Finding("memory", "ok", detail)


def _python(detail: str) -> Finding:
    return Finding("Python", "ok", detail, notes=(sys.executable,))


def available(found: Environment) -> int | None:
    """Bytes that programs can still get, at most what a container grants; None: not known."""
    if found.memory_available is None:
        return None
    if _is_number(found.memory_limit):
        return min(found.memory_available, int(found.memory_limit))
    return found.memory_available


def _is_number(limit: float | str | None) -> TypeGuard[float]:
    return isinstance(limit, int | float)
