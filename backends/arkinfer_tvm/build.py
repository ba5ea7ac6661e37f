"""Compiles kernels with TVM and links them with the launcher into one shared library.

The same kernels, level and tools give the same bytes: no times, no paths, no build id, and no
symbols beyond what is looked up. The library loads wherever glibc is `OLDEST_GLIBC` or newer. Knows
no IR.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from itertools import repeat
from pathlib import Path
from typing import Any

import tvm
from tvm.s_tir import transform as s_tir
from tvm.tirx import transform as tirx

from arkinfer.backend.scratch import scratch_folder
from arkinfer.errors import DeviceError, InternalError
from arkinfer.machine.c_compiler import (
    CCompiler,
    chosen_c_compiler,
    find_c_compiler,
    usual_c_compiler,
)
from arkinfer.machine.cores import usable_cores
from arkinfer_tvm.isa import ISAS
from arkinfer_tvm.kernels import Kernel

_COMPILE = (
    "-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Werror=implicit-function-declaration", "-fPIC",
    "-fvisibility=hidden", "-pthread",
)  # fmt: skip
_LINK = ("-shared", "-s", "-Wl,--build-id=none", "-Wl,-Bsymbolic", "-Wl,-z,now", "-lm")
PARTS = 8
"""Object files of a library; most of the time is LLVM's, which needs one core for each."""
_OLD_GLIBC = ("-include", "glibc.h")

_ELF_MACHINES = {"x86_64": 62, "aarch64": 183}
"""e_machine of an ELF file, by architecture; /usr/include/elf.h."""

_PROBE = """\
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
static _Thread_local char text[32];
static void *work(void *x) { atomic_fetch_add((atomic_int *)x, 1); return 0; }
__attribute__((visibility("default"))) const char *ark_probe(atomic_int *x) {
  pthread_t thread;
  if (pthread_create(&thread, 0, work, x) || pthread_join(thread, 0)) return 0;
  snprintf(text, sizeof text, "%d", atomic_load(x));
  return text;
}
"""


def build_library(names: Mapping[Kernel, str], isa: str) -> bytes:
    """A shared library with every kernel, for an instruction set, and the launcher.

    Raises:
        DeviceError: there is no C compiler or linker for the architecture here.
    """
    arch = ISAS[isa].arch
    compiler = c_compiler(arch)
    launcher = _source("launcher.c")
    sources = ["launcher.c"]
    with scratch_folder() as folder:
        (folder / "launcher.c").write_bytes(launcher)
        for number, compiled in enumerate(_compiled(names, isa)):
            sources.append(f"kernels{number}.o")
            (folder / sources[-1]).write_bytes(compiled)
        return _link(compiler, arch, sources, folder)


def _compiled(names: Mapping[Kernel, str], isa: str) -> list[bytes]:
    """Object files with some of the kernels each, compiled side by side.

    Into as many for every machine: the same kernels give the same bytes.
    """
    items = list(names.items())
    parts = [dict(items[number::PARTS]) for number in range(min(PARTS, len(items)))]
    with ThreadPoolExecutor(min(PARTS, len(usable_cores()))) as pool:
        return list(pool.map(compile_kernels, parts, repeat(isa)))


def compile_kernels(names: Mapping[Kernel, str], isa: str) -> bytes:
    """An object file with every kernel, under `__tvm_ffi_<name>`."""
    known = ISAS[isa]
    functions = {name: kernel.function(name, known) for kernel, name in names.items()}
    target = tvm.target.Target(known.target)
    with target:
        lowered = _lowered(tvm.IRModule(functions), target)
    built = tvm.get_global_func("target.build.llvm")(lowered, target)
    with scratch_folder() as folder:
        path = folder / "kernels.o"
        built.write_to_file(str(path), "o")
        return path.read_bytes()


def _lowered(module: Any, target: Any) -> Any:
    """As LLVM's back end takes it. What kernels do not use is left out: threads of a GPU, copies,
    pipelines; simplifications, which take TVM minutes in large kernels, and LLVM nothing; and
    flattening, which makes of a vector's index a sum (all buffers are flat): each lane would be
    loaded alone, and LLVM take four times as long to put them together again."""
    passes = [
        tirx.BindTarget(target.with_host(target)),
        s_tir.LowerInitBlock(),
        s_tir.PlanAndUpdateBufferAllocationLocation(),
        s_tir.ConvertBlocksToOpaque(),
        s_tir.LowerOpaqueBlock(),
        tirx.AnnotateEntryFunc(),
        tirx.SplitHostDevice(),
        tirx.MakePackedAPI(),
        tirx.LowerTVMBuiltin(),
        tirx.LowerIntrin(),
    ]
    return tvm.ir.transform.Sequential(passes)(module)


def c_compiler(arch: str) -> CCompiler:
    """The C compiler for an architecture; see `arkinfer.machine.c_compiler`.

    Raises:
        DeviceError: there is none; names the command that installs it.
    """
    found = find_c_compiler(arch)
    if found is None:
        raise DeviceError(
            f"The backend tvm cannot link kernels for {arch} here",
            f'There is no C compiler "{usual_c_compiler(arch)}"',
            _install(arch),
        )
    return found


def check_c_compiler(arch: str) -> None:
    """Makes a library of ten lines for an architecture, before anything else is begun.

    Raises:
        DeviceError: there is no compiler, or it cannot do that; names the command that mends it.
    """
    compiler = c_compiler(arch)
    with scratch_folder() as folder:
        (folder / "probe.c").write_text(_PROBE)
        _link(compiler, arch, ["probe.c"], folder)


def _link(compiler: CCompiler, arch: str, sources: list[str], folder: Path) -> bytes:
    """The shared library that the compiler makes of files in a folder."""
    old = () if compiler.bundled else _OLD_GLIBC
    (folder / "glibc.h").write_bytes(_source("glibc.h"))
    command = [*compiler.command, *_COMPILE, *old, *sources, *_LINK, "-o", "library.so"]
    # Where compilers keep files of their own; zig would leave them beside the sources.
    own = {"TMPDIR": str(folder), "ZIG_LOCAL_CACHE_DIR": str(folder)}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise _refused(compiler, arch, done)
    library = (folder / "library.so").read_bytes()
    if int.from_bytes(library[18:20], "little") != _ELF_MACHINES.get(arch):
        raise DeviceError(
            f'The C compiler "{compiler.name}" does not compile for {arch}',
            "It makes libraries for another architecture",
            _install(arch),
        )
    return library


def _refused(
    compiler: CCompiler, arch: str, done: subprocess.CompletedProcess[str]
) -> DeviceError | InternalError:
    said = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()
    line = next((line for line in said if "error:" in line or "cannot find" in line), said[-1])
    if "launcher.c" in line and "No such file" not in line:
        return InternalError(f'"{compiler.name}" refused our launcher', line)
    return DeviceError(f'The C compiler "{compiler.name}" cannot link here', line, _install(arch))


def _install(arch: str) -> str:
    if chosen_c_compiler(arch):
        return "Set CC to a C compiler that works here, or unset it"
    if arch == platform.machine():
        return "Install compiler, linker and headers: sudo apt-get install gcc libc6-dev"
    return 'Install one that can: pip install "arkinfer[cross]"'


def _source(name: str) -> bytes:
    return resources.files("arkinfer_tvm").joinpath(name).read_bytes()
