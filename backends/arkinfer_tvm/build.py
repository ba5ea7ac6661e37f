"""Compiles kernels with TVM and links them with the launcher into one shared library.

The same kernels, level and tools give the same bytes: no times, no paths, no build id, and no
symbols beyond what is looked up. Knows no IR.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import tvm

from arkinfer.backend.scratch import scratch_folder
from arkinfer.errors import DeviceError, InternalError
from arkinfer_tvm.cpu import Level
from arkinfer_tvm.kernels import Kernel

_COMPILE = ("-std=c11", "-O2", "-Wall", "-fPIC", "-fvisibility=hidden", "-pthread")
_LINK = ("-shared", "-s", "-Wl,--build-id=none", "-Wl,-Bsymbolic", "-Wl,-z,now", "-lm")


def build_library(names: Mapping[Kernel, str], arch: str, level: Level) -> bytes:
    """A shared library with every kernel and the launcher.

    Raises:
        DeviceError: there is no C compiler or linker for the architecture here.
    """
    compiler = c_compiler(arch)
    launcher = resources.files("arkinfer_tvm").joinpath("launcher.c").read_bytes()
    with scratch_folder() as folder:
        (folder / "kernels.o").write_bytes(compile_kernels(names, arch, level))
        (folder / "launcher.c").write_bytes(launcher)
        command = [compiler, *_COMPILE, "launcher.c", "kernels.o", *_LINK, "-o", "library.so"]
        _link(command, folder)
        return (folder / "library.so").read_bytes()


def compile_kernels(names: Mapping[Kernel, str], arch: str, level: Level) -> bytes:
    """An object file with every kernel, under `__tvm_ffi_<name>`."""
    functions = {name: kernel.function(name) for kernel, name in names.items()}
    facts: dict[str, Any] = {
        "kind": "llvm",
        "mtriple": f"{arch}-linux-gnu",
        "mcpu": level.name,
        "mattr": list(level.features),
    }
    executable = tvm.compile(tvm.IRModule(functions), target=tvm.target.Target(facts))
    with scratch_folder() as folder:
        path = folder / "kernels.o"
        executable.mod.write_to_file(str(path), "o")
        return path.read_bytes()


def c_compiler(arch: str) -> str:
    """The C compiler for an architecture: $CC, else cc, else the GNU cross compiler.

    Raises:
        DeviceError: there is none; names the command that installs it.
    """
    if arch == platform.machine():
        name, package = os.environ.get("CC") or "cc", "gcc libc6-dev"
    else:
        name = f"{arch}-linux-gnu-gcc"
        package = f"gcc-{arch.replace('_', '-')}-linux-gnu"
    found = shutil.which(name)
    if found is None:
        raise DeviceError(
            f"The backend tvm cannot link kernels for {arch} here",
            f'There is no C compiler "{name}"',
            f"Install one: sudo apt-get install {package}",
        )
    return found


def _link(command: list[str], folder: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(folder)}  # where the compiler keeps its own files
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return
    said = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
    if "cannot find" in done.stderr or "No such file" in done.stderr or "ld" in said:
        raise DeviceError(
            f'The C compiler "{command[0]}" cannot link here',
            said,
            "Install linker and headers: sudo apt-get install gcc libc6-dev binutils",
        )
    raise InternalError(f'"{command[0]}" refused our launcher', said)
