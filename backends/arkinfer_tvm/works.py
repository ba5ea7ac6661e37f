"""The libraries of a section, as work that builds keep. Knows no IR."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import tvm

from arkinfer.backend import Work
from arkinfer.backend.sources import digest_of
from arkinfer.machine.c_compiler import find_c_compiler
from arkinfer_tvm.build import build_library
from arkinfer_tvm.isa import ISAS
from arkinfer_tvm.kernels import Kernel

LAUNCHER, TYPICAL = 20_000, 6_000
"""Bytes of a library without kernels, and of a kernel, of which a plan makes none: those of
products and attention have 5,000 to 20,000, others 1,000."""


def library_works(names: Mapping[str, Mapping[Kernel, str]]) -> list[Work]:
    """A library for each instruction set, which are of one architecture.

    Args:
        names: by instruction set the kernels, and what each is exported as.
    """
    found = tools(ISAS[next(iter(names))].arch)
    return [
        Work(
            f"kernels for {isa}", (_described(own), isa, *found), _maker(own, isa),
            LAUNCHER + TYPICAL * len(own),
        )
        for isa, own in names.items()
    ]  # fmt: skip


def _described(names: Mapping[Kernel, str]) -> str:
    """A kernel's repr has all that it is made for: it is a dataclass, and so are its fields."""
    return "\n".join(f"{name} {kernel!r}" for kernel, name in names.items())


def _maker(names: Mapping[Kernel, str], isa: str) -> Callable[[], bytes]:
    return lambda: build_library(names, isa)


def tools(arch: str) -> tuple[str, ...]:
    """What turns kernels into a library: our code, TVM, LLVM, C compiler and linker."""
    llvm = tvm.get_global_func("target.llvm_version_major")()
    found = find_c_compiler(arch)
    linked = () if found is None else (*found.command, _version(found.command))
    return _code(), str(tvm.__version__), f"LLVM {llvm}", *linked


@lru_cache
def _code() -> str:
    return digest_of(Path(__file__).parent, (".py", ".c", ".h"))


def _version(command: tuple[str, ...]) -> str:
    """What a compiler and its linker say of themselves; "" of one that does not even start."""
    said = ""
    for option in ("--version", "-Wl,--version"):
        try:
            done = subprocess.run([*command, option], capture_output=True, text=True, check=False)
        except OSError:
            return ""
        said += done.stdout
    return said
