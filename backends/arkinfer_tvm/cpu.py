"""Instruction sets: what a library is compiled for, and what the processor here offers.

Shared by both halves. Levels are those of the x86-64 psABI, section 3.1.1; flags are named as
/proc/cpuinfo names them. Knows no kernel.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")

_V2 = ("cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3")
_V3 = (*_V2, "abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave")
_V4 = (*_V3, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")


@dataclass(frozen=True)
class Level:
    """An instruction set.

    Attributes:
        name: as LLVM names the processor.
        flags: what /proc/cpuinfo must list.
        features: what LLVM is told beyond the name.
    """

    name: str
    flags: tuple[str, ...] = ()
    features: tuple[str, ...] = ()


LEVELS: dict[str, tuple[Level, ...]] = {
    "x86_64": (
        Level("x86-64"),
        Level("x86-64-v2", _V2),
        Level("x86-64-v3", _V3),
        Level("x86-64-v4", _V4, ("-prefer-256-bit",)),
    ),
    "aarch64": (Level("generic", ("asimd",), ("+neon",)),),
}
"""By architecture, as `platform.machine()` says it; each level contains the one before."""


def platform_name() -> str:
    """`linux-x86_64` and the like."""
    return f"{sys.platform}-{platform.machine()}"


def cpu_flags() -> frozenset[str]:
    """What the processor here offers; empty where the system does not say."""
    try:
        text = CPUINFO.read_text("utf-8", "replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def best_level(arch: str, flags: frozenset[str]) -> Level:
    """The richest level whose flags are all there."""
    fitting = [level for level in LEVELS[arch] if flags.issuperset(level.flags)]
    return fitting[-1] if fitting else LEVELS[arch][0]
