"""What a benchmark must know of the machine it ran on, and when two machines are comparable.

Knows no model and no measurement. What cannot be read is None, shown as "not measured", never 0.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from arkinfer import __version__
from arkinfer.machine import procfs
from arkinfer.machine.procfs import Limit, System

PACKAGES = ("numpy", "onnxruntime")
"""Packages whose version changes figures."""


@dataclass(frozen=True)
class Environment:
    """A machine at a moment. None: not measured.

    Attributes:
        machine: the board or computer, as its firmware calls it.
        cpu: the processor's model.
        isa: the instruction sets that kernels choose by, sorted.
        physical_cores: cores of the machine.
        logical_cores: hardware threads of the machine.
        affinity: the hardware threads that this process may use.
        cpu_quota: cores' worth of time that its cgroup grants.
        memory_limit: bytes that its cgroup grants.
        governors: how those threads choose their frequency, e.g. ("performance",).
        frequency: MHz at this moment, the median of those threads.
        max_frequency: MHz that the settings allow.
        fixed_clocks: whether the settings allow one frequency only, as after jetson_clocks.
        gpu_frequency: MHz of a Jetson's GPU at this moment.
        power_mode: of a Jetson, as nvpmodel calls it.
        power: watts that the board draws, where it can tell.
        temperature: degrees Celsius of the hottest sensor.
        throttle_events: how often heat or current has slowed the processor since it was started.
        quota_stops: how often the cgroup's quota has stopped its processes.
        stolen: seconds that other guests took from this virtual machine since it was started.
        load: processes that wanted to run, over the last minute.
        memory: bytes of the machine.
        memory_available: bytes that programs could still get.
        kernel: the system's name and version.
        virtual: whether it is a virtual machine.
        container: "none", or what seems to hold this process, e.g. "docker".
        python: version.
        arkinfer: version.
        packages: versions by name, of those that are installed.
    """

    machine: str | None = None
    cpu: str | None = None
    isa: tuple[str, ...] | None = None
    physical_cores: int | None = None
    logical_cores: int | None = None
    affinity: tuple[int, ...] | None = None
    cpu_quota: Limit = None
    memory_limit: Limit = None
    governors: tuple[str, ...] | None = None
    frequency: float | None = None
    max_frequency: float | None = None
    fixed_clocks: bool | None = None
    gpu_frequency: float | None = None
    power_mode: str | None = None
    power: float | None = None
    temperature: float | None = None
    throttle_events: int | None = None
    quota_stops: int | None = None
    stolen: float | None = None
    load: float | None = None
    memory: int | None = None
    memory_available: int | None = None
    kernel: str | None = None
    virtual: bool | None = None
    container: str | None = None
    python: str | None = None
    arkinfer: str | None = None
    packages: tuple[tuple[str, str], ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """By field; tuples as lists, packages as an object."""
        facts = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        facts["packages"] = None if self.packages is None else dict(self.packages)
        return facts

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Environment:
        """What `to_json` made, perhaps of another version: unknown keys are passed over.

        Raises:
            ValueError: a value of another kind than its field's.
        """
        from pydantic import TypeAdapter

        known = {field.name for field in fields(cls)}
        values = {k: v for k, v in facts.items() if k in known and v is not None}
        if isinstance(packages := values.get("packages"), Mapping):
            values["packages"] = tuple(sorted(packages.items()))  # pyright: ignore[reportUnknownMemberType] (of a foreign file; checked below)
        return TypeAdapter(cls).validate_python(values)

    def rows(self) -> list[tuple[str, str | None]]:
        """(name, value with its unit) of all fields, for people."""
        return [(_NAMES[f.name], _shown(f.name, getattr(self, f.name))) for f in fields(self)]


def read_environment(root: str | Path = "/", *, packages: Iterable[str] = PACKAGES) -> Environment:
    """The machine as it is now.

    Args:
        root: the folder that stands for "/"; with another one, no tool of this machine is asked.
        packages: distributions whose versions to note.
    """
    system = System(Path(root))
    allowed = system.fields("proc/self/status").get("Cpus_allowed_list")
    cpus = procfs.cpu_list(allowed) if allowed else None
    info = system.fields("proc/cpuinfo")
    flags = info.get("flags") or info.get("Features")
    loads = (system.text("proc/loadavg") or "").split()
    return Environment(
        machine=procfs.machine(system),
        cpu=procfs.cpu_model(info),
        isa=None if flags is None else tuple(sorted(procfs.ISA & set(flags.split()))),
        physical_cores=procfs.physical_cores(system),
        logical_cores=len(procfs.cpu_list(system.text("sys/devices/system/cpu/online") or ""))
        or None,
        affinity=cpus,
        cpu_quota=procfs.cpu_quota(system),
        memory_limit=procfs.memory_limit(system),
        **procfs.clocks(system, cpus),
        gpu_frequency=procfs.gpu_frequency(system),
        power_mode=procfs.power_mode(system),
        power=procfs.board_power(system),
        temperature=procfs.temperature(system),
        throttle_events=procfs.throttle_events(system),
        quota_stops=procfs.quota_stops(system),
        stolen=procfs.stolen(system),
        load=float(loads[0]) if loads and re.fullmatch(r"\d+\.\d+", loads[0]) else None,
        memory=system.kib("proc/meminfo", "MemTotal"),
        memory_available=system.kib("proc/meminfo", "MemAvailable"),
        kernel=procfs.kernel(system),
        virtual=None if flags is None else procfs.is_virtual(system, flags),
        container=procfs.container(system),
        python=platform.python_version(),
        arkinfer=__version__,
        packages=_versions(packages),
    )


_DECIDES = (
    "machine", "cpu", "isa", "physical_cores", "logical_cores", "affinity", "cpu_quota",
    "memory_limit", "governors", "max_frequency", "fixed_clocks", "power_mode", "packages",
)  # fmt: skip
_NOTED = ("memory", "kernel", "virtual", "container", "python", "arkinfer")


def alike(a: Environment, b: Environment) -> list[str]:
    """What makes figures of the two incomparable, a sentence each; []: they are alike.

    >>> alike(Environment(cpu="one"), Environment(cpu="other"))
    ['CPU: one, other']
    """
    return _differences(a, b, _DECIDES)


def noted(a: Environment, b: Environment) -> list[str]:
    """What differs and is worth a note, but does not change figures by itself."""
    return _differences(a, b, _NOTED)


def disturbed(before: Environment, after: Environment) -> list[str]:
    """What slowed the machine between two moments, a sentence each."""
    found: list[str] = []
    if events := _grown(before.throttle_events, after.throttle_events):
        found.append(f"heat or current slowed the processor {_times(events)}")
    if stops := _grown(before.quota_stops, after.quota_stops):
        found.append(f"the CPU quota of the cgroup stopped its processes {_times(stops)}")
    return found


def _grown(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else max(0, after - before)


def _times(count: float) -> str:
    return "once" if count == 1 else f"{count:,.0f} times"


def _differences(a: Environment, b: Environment, names: tuple[str, ...]) -> list[str]:
    result: list[str] = []
    for name in names:
        first, second = getattr(a, name), getattr(b, name)
        if first != second:
            texts = [_shown(name, v) or "not measured" for v in (first, second)]
            if name == "isa":
                texts = [f"only {' '.join(sorted(set(x or ()) - set(y or ()))) or 'none'}"
                         for x, y in ((first, second), (second, first))]  # fmt: skip
            result.append(f"{_NAMES[name]}: {texts[0]}, {texts[1]}")
    return result


def _versions(packages: Iterable[str]) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return tuple(sorted(found.items()))


_NAMES = {
    "machine": "machine", "cpu": "CPU", "isa": "instruction sets",
    "physical_cores": "cores", "logical_cores": "hardware threads",
    "affinity": "CPUs allowed", "cpu_quota": "CPU quota", "memory_limit": "memory limit",
    "governors": "governor", "frequency": "frequency", "max_frequency": "highest frequency",
    "fixed_clocks": "fixed clocks", "gpu_frequency": "GPU frequency", "power_mode": "power mode",
    "power": "power", "temperature": "temperature", "throttle_events": "throttle events",
    "quota_stops": "quota stops", "stolen": "time stolen", "load": "load", "memory": "memory",
    "memory_available": "memory available", "kernel": "kernel", "virtual": "virtual machine",
    "container": "container", "python": "Python", "arkinfer": "arkinfer",
    "packages": "packages",
}  # fmt: skip
_UNITS = {
    "frequency": "{:,.0f} MHz", "max_frequency": "{:,.0f} MHz", "gpu_frequency": "{:,.0f} MHz",
    "power": "{:.1f} W", "temperature": "{:.1f} °C", "stolen": "{:,.1f} s since start",
    "throttle_events": "{:,} since start", "quota_stops": "{:,} since start",
    "cpu_quota": "{:g} cores", "load": "{:.2f}",
}  # fmt: skip


def _shown(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if name in ("memory", "memory_available", "memory_limit"):
        return f"{value / (1 << 30):.1f} GiB"
    if name == "affinity":
        return ranges(value)
    if name == "packages":
        return ", ".join(f"{package} {version}" for package, version in value)
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"  # pyright: ignore[reportUnknownArgumentType] (of strings)
    return _UNITS.get(name, "{}").format(value)


def ranges(numbers: Iterable[int]) -> str:
    """A list as the kernel prints it.

    >>> ranges([0, 1, 2, 5])
    '0-2,5'
    """
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
