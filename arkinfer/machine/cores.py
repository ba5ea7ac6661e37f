"""Which processors a computation should run on: one of each core that this process may use.

Knows no backend and starts no thread.
"""

from __future__ import annotations

import os

from arkinfer.machine.procfs import System, cpu_quota

_SLOW = 0.5
"""Of the fastest core's speed: cores below it would make the others wait."""


def usable_cores(system: System | None = None) -> tuple[int, ...]:
    """Numbers of logical processors, the fastest first, one of each physical core.

    Leaves out what the process may not use (affinity, the quota of a container), and the cores of a
    mixed processor that are less than half as fast as its fastest ones. Never empty.

    Args:
        system: the files that tell about the machine; None: this machine's.
    """
    system = system or System()
    cores: dict[object, int] = {}
    for cpu in _allowed():
        cores.setdefault(_core(system, cpu), cpu)
    found = [(_capacity(system, cpu), cpu) for cpu in cores.values()]
    best = max(capacity for capacity, _ in found)
    fast = sorted((-c, cpu) for c, cpu in found if c >= _SLOW * best)
    quota = cpu_quota(system)
    most = max(1, int(quota)) if isinstance(quota, (int, float)) else len(fast)
    return tuple(cpu for _, cpu in fast[:most])


def _allowed() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _core(system: System, cpu: int) -> object:
    """What is the same for hardware threads that share a core; the processor itself if unknown."""
    folder = f"sys/devices/system/cpu/cpu{cpu}/topology"
    siblings = system.text(f"{folder}/thread_siblings_list")
    return siblings or (cpu,)


def _capacity(system: System, cpu: int) -> int:
    """Linux' measure of a core's speed, 1,024 for the fastest; the same for all where unknown."""
    return system.number(f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity") or 1024
