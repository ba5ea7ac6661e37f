"""Finds the C compiler that makes code for an architecture. Knows no backend and calls no compiler.

For this machine's own architecture it is $CC, if that is set, else `cc`; for another one the GNU
cross compiler of distributions. Where there is no `cc` and no cross compiler, it is `zig cc` of the
Python package ziglang, which compiles for every architecture.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

OLDEST_GLIBC = "2.28"
"""Of the systems that must load what is compiled: Debian 10, Ubuntu 18.10, RHEL 8."""


@dataclass(frozen=True)
class CCompiler:
    """A C compiler for an architecture.

    Attributes:
        name: as messages call it.
        command: its program, and the words that make it compile for the architecture.
        bundled: whether it brings its own C library, of the version that it is told.
    """

    name: str
    command: tuple[str, ...]
    bundled: bool = False


def find_c_compiler(
    arch: str,
    environ: Mapping[str, str] | None = None,
    which: Callable[[str], object | None] = shutil.which,
) -> CCompiler | None:
    """The compiler that builds use; None: there is none.

    Args:
        arch: as `platform.machine()` says it.
        environ: an environment; None: that of this process.
        which: finds a program on the PATH.
    """
    name = usual_c_compiler(arch, environ)
    program, *words = shlex.split(name) or [name]
    if found := which(program):
        return CCompiler(name, (str(found), *words))
    zig = None if chosen_c_compiler(arch, environ) else find_zig()
    if zig is None:
        return None
    command = (str(zig), "cc", "-target", f"{arch}-linux-gnu.{OLDEST_GLIBC}")
    return CCompiler("zig cc", command, bundled=True)


def usual_c_compiler(arch: str, environ: Mapping[str, str] | None = None) -> str:
    """What is looked for first: a program, and for this machine's architecture words after it."""
    if arch != platform.machine():
        return f"{arch}-linux-gnu-gcc"
    return chosen_c_compiler(arch, environ) or "cc"


def chosen_c_compiler(arch: str, environ: Mapping[str, str] | None = None) -> str:
    """What the user set $CC to, where that counts: then nothing takes its place; "": nothing."""
    known = os.environ if environ is None else environ
    return known.get("CC", "") if arch == platform.machine() else ""


def find_zig() -> Path | None:
    """The program of the Python package ziglang; None: it is not installed."""
    package = find_spec("ziglang")
    if package is None or package.origin is None:
        return None
    program = Path(package.origin).with_name("zig")
    return program if program.is_file() else None
