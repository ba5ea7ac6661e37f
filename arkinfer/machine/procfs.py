"""Reads /proc, /sys and cgroups, under any root. Knows no benchmark; what is missing is None.

Layouts: proc(5), sysfs of cpufreq, thermal, hwmon and devfreq, cgroups(7) versions 1 and 2.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

Limit: TypeAlias = float | Literal["unlimited"] | None
"""A number, the word for none, or None: not measured."""

_NO_LIMIT = 1 << 60  # what version 1 says for no limit of memory: the largest page-aligned int64


ISA = {
    "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "svei8mm", "svebf16",
}  # fmt: skip
"""The instruction sets that kernels choose by, as /proc/cpuinfo calls them."""

_ARM = {
    "0x41 0xd03": "Cortex-A53", "0x41 0xd05": "Cortex-A55", "0x41 0xd08": "Cortex-A72",
    "0x41 0xd0b": "Cortex-A76", "0x41 0xd0c": "Neoverse-N1", "0x41 0xd40": "Neoverse-V1",
    "0x41 0xd41": "Cortex-A78", "0x41 0xd42": "Cortex-A78AE", "0x41 0xd44": "Cortex-X1",
    "0x41 0xd49": "Neoverse-N2", "0x41 0xd4f": "Neoverse-V2", "0x4e 0x004": "Carmel",
}  # fmt: skip
"""Implementer and part as /proc/cpuinfo gives them; names as Arm's manuals do."""


class System:
    """The files that tell about a machine.

    Args:
        root: the folder that stands for "/".
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    def text(self, path: str) -> str | None:
        """A file's text without the space around it; None: there is none that may be read."""
        try:
            text = (self.root / path).read_bytes().decode("utf-8", "replace")
        except (OSError, ValueError):
            return None
        return text.replace("\0", " ").strip()

    def number(self, path: str) -> int | None:
        """The whole number that a file holds."""
        try:
            return int(self.text(path) or "")
        except ValueError:
            return None

    def each(self, pattern: str) -> list[str]:
        """The paths that match, as `text` takes them, sorted."""
        try:
            return sorted(p.relative_to(self.root).as_posix() for p in self.root.glob(pattern))
        except OSError:
            return []

    def numbers(self, pattern: str) -> list[int]:
        """What the matching files hold, those that hold a number."""
        return [n for n in map(self.number, self.each(pattern)) if n is not None]

    def fields(self, path: str) -> dict[str, str]:
        """The "name: value" lines of a file, in its order; of equal names the first one."""
        result: dict[str, str] = {}
        for line in (self.text(path) or "").splitlines():
            name, colon, value = line.partition(":")
            if colon:
                result.setdefault(name.strip(), value.strip())
        return result

    def kib(self, path: str, name: str) -> int | None:
        """Bytes of a "name: 123 kB" line."""
        match = re.fullmatch(r"(\d+) kB", self.fields(path).get(name, ""))
        return int(match[1]) << 10 if match else None

    def limits(self, controller: str) -> Iterator[tuple[int, str]]:
        """The cgroups that hold this process, innermost first: (version, folder)."""
        for line in (self.text("proc/self/cgroup") or "").splitlines():
            _, names, path = (*line.split(":", 2), "", "")[:3]
            if not names:  # version 2 has one hierarchy for all
                mounts = ("sys/fs/cgroup", "sys/fs/cgroup/unified")
                yield from self._upwards(2, mounts, "cgroup.controllers", path)
            elif controller in names.split(","):
                mounts = (f"sys/fs/cgroup/{controller}", f"sys/fs/cgroup/{names}")
                yield from self._upwards(1, mounts, "", path)

    def _upwards(
        self, version: int, mounts: Iterable[str], proof: str, path: str
    ) -> Iterator[tuple[int, str]]:
        mount = next((m for m in mounts if (self.root / m / proof).exists()), None)
        parts = [] if mount is None or ".." in path else [p for p in path.split("/") if p]
        for count in range(len(parts), -1, -1):
            folder = "/".join([mount or "", *parts[:count]])
            if mount is not None and (self.root / folder).is_dir():
                yield version, folder


def cpu_list(text: str) -> tuple[int, ...]:
    """The numbers of a list such as the kernel prints.

    >>> cpu_list("0-2,5")
    (0, 1, 2, 5)
    """
    result: list[int] = []
    for part in text.split(","):
        if match := re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip()):
            result += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(result)


def cpu_quota(system: System) -> Limit:
    """Cores' worth of time that the tightest cgroup grants."""
    found: list[float] = []
    seen = False
    for version, folder in system.limits("cpu"):
        seen = True
        if version == 2:
            quota, _, period = (system.text(f"{folder}/cpu.max") or "").partition(" ")
        else:
            quota = str(system.number(f"{folder}/cpu.cfs_quota_us"))
            period = str(system.number(f"{folder}/cpu.cfs_period_us"))
        if quota.isdecimal() and period.isdecimal() and int(period):
            found.append(int(quota) / int(period))
    return min(found) if found else "unlimited" if seen else None


def memory_limit(system: System) -> Limit:
    """Bytes that the tightest cgroup grants."""
    found: list[int] = []
    seen = False
    for version, folder in system.limits("memory"):
        seen = True
        name = "memory.max" if version == 2 else "memory.limit_in_bytes"
        number = system.number(f"{folder}/{name}")
        if number is not None and 0 < number < _NO_LIMIT:
            found.append(number)
    return min(found) if found else "unlimited" if seen else None


def quota_stops(system: System) -> int | None:
    """How often a cgroup's quota has stopped its processes."""
    counts = [
        int(match[1])
        for _, folder in system.limits("cpu")
        if (
            match := re.search(
                r"^nr_throttled (\d+)$", system.text(f"{folder}/cpu.stat") or "", re.M
            )
        )
    ]
    return sum(counts) if counts else None


def throttle_events(system: System) -> int | None:
    """How often heat or current has slowed the processor: x86's counters, and Jetson's."""
    counts = system.numbers("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count")
    counts += system.numbers("sys/class/hwmon/hwmon*/oc*_event_cnt")
    return sum(counts) if counts else None


def temperature(system: System) -> float | None:
    """Degrees Celsius of the hottest sensor of the processor or the board."""
    found = system.numbers("sys/class/thermal/thermal_zone*/temp")
    for name in system.each("sys/class/hwmon/hwmon*/name"):
        if system.text(name) in ("coretemp", "k10temp", "zenpower", "cpu_thermal"):
            found += system.numbers(f"{name.removesuffix('name')}temp*_input")
    real = [n / 1000 for n in found if 0 < n < 150_000]  # sensors that sleep say 0 or less
    return max(real, default=None)


def board_power(system: System) -> float | None:
    """Watts that the board draws, by the INA3221 of a Jetson."""
    for path in system.each("sys/class/hwmon/hwmon*/in*_label"):
        if system.text(path) in ("VDD_IN", "5V_IN"):
            folder, _, name = path.rpartition("/")
            index = name.removeprefix("in").removesuffix("_label")
            volts = system.number(f"{folder}/in{index}_input")
            amperes = system.number(f"{folder}/curr{index}_input")
            if volts is not None and amperes is not None:
                return volts * amperes / 1e6
    return None


def machine(system: System) -> str | None:
    tree = system.text("proc/device-tree/model")
    parts = [system.text(f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name")]
    return tree or " ".join(p for p in parts if p) or None


def cpu_model(info: dict[str, str]) -> str | None:
    if "model name" in info:
        return info["model name"]
    key = f"{info.get('CPU implementer')} {info.get('CPU part')}"
    return _ARM.get(key, f"Arm part {key}") if "None" not in key else None


def processor() -> str:
    """The model of the processor here, for people; where the system does not say, its kind."""
    return cpu_model(System(Path("/")).fields("proc/cpuinfo")) or platform.machine()


def physical_cores(system: System) -> int | None:
    cores = {
        (system.number(f"{folder}/physical_package_id"), system.number(f"{folder}/core_id"),
         system.number(f"{folder}/cluster_id"))
        for folder in system.each("sys/devices/system/cpu/cpu[0-9]*/topology")
    }  # fmt: skip
    return len(cores) or None


def clocks(system: System, cpus: tuple[int, ...] | None) -> dict[str, Any]:
    """Governors and frequencies of the hardware threads that this process may use."""
    folders = [
        folder
        for folder in system.each("sys/devices/system/cpu/cpu[0-9]*/cpufreq")
        if cpus is None or int(re.sub(r"\D", "", folder)) in cpus
    ]

    def read(name: str) -> list[int]:
        return [n for f in folders if (n := system.number(f"{f}/{name}")) is not None]

    governors = {g for f in folders if (g := system.text(f"{f}/scaling_governor"))}
    now = [n / 1000 for n in read("scaling_cur_freq")] or _advertised(system)
    low, high = read("scaling_min_freq"), read("scaling_max_freq")
    return {
        "governors": tuple(sorted(governors)) or None,
        "frequency": sorted(now)[len(now) // 2] if now else None,
        "max_frequency": max(high) / 1000 if high else None,
        "fixed_clocks": low == high if low and high else None,
    }


def _advertised(system: System) -> list[float]:
    text = system.text("proc/cpuinfo") or ""
    return [float(mhz) for mhz in re.findall(r"^cpu MHz\s*: (\d+\.\d+)$", text, re.M)]


def gpu_frequency(system: System) -> float | None:
    found = [
        hertz
        for kind in ("gpu", "ga10b", "gv11b", "gp10b")
        for hertz in system.numbers(f"sys/class/devfreq/*.{kind}/cur_freq")
    ]
    return found[0] / 1e6 if found else None


def power_mode(system: System) -> str | None:
    """By nvpmodel where it is installed, else the number that it keeps."""
    tool = shutil.which("nvpmodel") if system.root == Path("/") else None
    if tool is not None:
        try:
            done = subprocess.run(
                [tool, "-q"], capture_output=True, text=True, timeout=5, check=False
            )
            if match := re.search(r"NV Power Mode: *(\S+)", done.stdout):
                return match[1]
        except (OSError, subprocess.SubprocessError):
            pass
    match = re.search(r"pmode:(\d+)", system.text("var/lib/nvpmodel/status") or "")
    return f"mode {int(match[1])}" if match else None


def stolen(system: System) -> float | None:
    first = (system.text("proc/stat") or "").partition("\n")[0].split()
    ticks = first[8] if first[:1] == ["cpu"] and len(first) > 8 else ""
    return int(ticks) / 100 if ticks.isdecimal() else None  # USER_HZ is 100 everywhere


def kernel(system: System) -> str | None:
    names = [system.text(f"proc/sys/kernel/{name}") for name in ("ostype", "osrelease")]
    return " ".join(n for n in names if n) or None


def is_virtual(system: System, flags: str) -> bool:
    named = system.text("sys/hypervisor/type") or system.text(
        "proc/device-tree/hypervisor/compatible"
    )
    return "hypervisor" in flags.split() or bool(named)


def container(system: System) -> str | None:
    if system.text("proc/self/cgroup") is None:
        return None
    if name := system.text("run/systemd/container"):
        return name
    marks = {".dockerenv": "docker", "run/.containerenv": "podman"}
    for path, name in marks.items():
        if system.text(path) is not None:
            return name
    text = system.text("proc/self/cgroup") or ""
    match = re.search(r"kubepods|docker|lxc|containerd|libpod", text)
    return match[0] if match else "none"
