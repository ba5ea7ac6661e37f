"""Instruction sets: what a library is compiled for, and what the processor here offers.

Shared by both halves. Flags are named as /proc/cpuinfo names them; levels of x86-64 are those of
its psABI, section 3.1.1. Knows no kernel.
"""

from __future__ import annotations

import platform
import struct
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from arkinfer.errors import DeviceError

CPUINFO = Path("/proc/cpuinfo")
AUXV = Path("/proc/self/auxv")

_V3 = (
    "abm", "avx", "avx2", "bmi1", "bmi2", "cx16", "f16c", "fma", "lahf_lm", "movbe", "popcnt",
    "sse4_1", "sse4_2", "ssse3", "xsave",
)  # fmt: skip
_V4 = (*_V3, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")
_DOTPROD = ("asimd", "asimdhp", "asimddp")


ISAS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "x86-64-v3": _V3,
        "avx-vnni": (*_V3, "avx_vnni"),
        "x86-64-v4-vnni": (*_V4, "avx512_vnni"),
        "x86-64-v4-vnni-bf16": (*_V4, "avx512_vnni", "avx512_bf16"),
    },
    "aarch64": {
        "neon": ("asimd",),
        "dotprod": _DOTPROD,
        "i8mm": (*_DOTPROD, "i8mm"),
    },
}
"""What kernels are made for: by architecture, the poorest first, and the flags that each needs.
`arkinfer_tvm.isa` describes each to the kernels."""

_AT_HWCAP, _AT_HWCAP2 = 16, 26
_HWCAP = {1: "asimd", 10: "asimdhp", 20: "asimddp"}
_HWCAP2 = {13: "i8mm", 14: "bf16"}
"""Flags of aarch64, by the bit that stands for each; Linux' arch/arm64/include/uapi/asm/hwcap.h."""


@dataclass(frozen=True)
class Variant:
    """One of the libraries of a section, which differ in nothing but their instructions.

    Attributes:
        isa: the instruction set's name.
        library: the section's entry that holds it.
        flags: what the processor must offer.
    """

    isa: str
    library: str
    flags: tuple[str, ...]


def platform_name() -> str:
    """`linux-x86_64` and the like."""
    return f"{sys.platform}-{platform.machine()}"


def cpu_flags() -> frozenset[str]:
    """What the processor here offers; empty where the system does not say.

    An emulator of processes shows the cpuinfo of the machine that it runs on; what it tells each
    process of its own processor is true.
    """
    arch = platform.machine()
    flags = flags_of_cpuinfo(_read(CPUINFO).decode("utf-8", "replace"), arch)
    if arch == "aarch64" and not flags:
        return flags_of_auxv(_read(AUXV))
    return flags


def flags_of_cpuinfo(text: str, arch: str) -> frozenset[str]:
    """The flags that every processor of an /proc/cpuinfo has; empty for another architecture's."""
    key = "Features" if arch == "aarch64" else "flags"
    lines = [line.partition(":") for line in text.splitlines()]
    listed = [frozenset(value.split()) for name, _, value in lines if name.strip() == key]
    return frozenset.intersection(*listed) if listed else frozenset()


def flags_of_auxv(vector: bytes) -> frozenset[str]:
    """The same from what the kernel tells a process of aarch64 when it begins; see getauxval(3)."""
    whole = len(vector) // 16 * 16
    values = dict(struct.iter_unpack("<QQ", vector[:whole]))
    known = {_AT_HWCAP: _HWCAP, _AT_HWCAP2: _HWCAP2}
    return frozenset(
        flag
        for key, flags in known.items()
        for bit, flag in flags.items()
        if values.get(key, 0) >> bit & 1
    )


def isas_for(asked: Sequence[str], arch: str, flags: frozenset[str]) -> list[str]:
    """The instruction sets that a target asks for, the poorest first.

    Args:
        asked: names, of which this backend needs not know all; or "host": the best of this machine.
        arch: the target's.
        flags: of the processor here.
    """
    known = ISAS.get(arch, {})
    if "host" not in asked:
        return [name for name in known if name in asked]
    here = [name for name, needed in known.items() if flags.issuperset(needed)]
    return here[-1:] if arch == platform.machine() else list(known)[:1]


def choose(variants: Sequence[Variant], flags: frozenset[str]) -> Variant:
    """The best variant that a processor runs: the last one whose flags it has.

    Args:
        variants: the poorest first; at least one.
        flags: of the processor.

    Raises:
        DeviceError: none fits; says what is there, and what is needed.
    """
    fitting = [variant for variant in variants if flags.issuperset(variant.flags)]
    if fitting:
        return fitting[-1]
    nearest = min(variants, key=lambda variant: len(set(variant.flags) - flags))
    missing = [flag for flag in nearest.flags if flag not in flags]
    raise DeviceError(
        "The artifact's kernels do not run on this processor",
        f"They need {_listed((variant.isa for variant in variants), ' or ')}. This processor "
        f"offers {_offered(flags)}; for {nearest.isa} it lacks {_listed(missing)}",
        "Build it for this machine: arkinfer build --target cpu",
    )


def _offered(flags: frozenset[str]) -> str:
    arch = platform.machine()
    here = [name for name, needed in ISAS.get(arch, {}).items() if flags.issuperset(needed)]
    return here[-1] if here else f"plain {arch}"


def _listed(words: Iterable[str], before_last: str = ", ") -> str:
    *others, last = words
    return before_last.join((", ".join(others), last)) if others else last


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
