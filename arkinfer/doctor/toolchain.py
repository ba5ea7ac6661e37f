"""Compiles, links and runs a short C program for an architecture before any model is touched.

It takes the compiler that builds take; backends that bring compiled kernels need it. Knows no
backend.
"""

from __future__ import annotations

import os
import platform
import struct
from pathlib import Path

from arkinfer.doctor.disk import ANOTHER_TMPDIR
from arkinfer.doctor.finding import Finding
from arkinfer.doctor.host import Host
from arkinfer.doctor.install import package, pip
from arkinfer.machine.c_compiler import (
    CCompiler,
    chosen_c_compiler,
    find_c_compiler,
    usual_c_compiler,
)

ARCHES = ("x86_64", "aarch64")
"""What artifacts are built for."""

MACHINES = {"x86_64": 62, "aarch64": 183}
"""e_machine of an ELF file, by architecture; /usr/include/elf.h."""

PROGRAM = """\
#include <math.h>
#include <pthread.h>
#include <stdio.h>
static void *half(void *x) { *(double *)x = sqrt(*(double *)x); return NULL; }
int main(int count, char **words) {
    double x = 40.0 + count + words[0][0] * 0;
    pthread_t thread;
    if (pthread_create(&thread, NULL, half, &x) || pthread_join(thread, NULL)) return 1;
    printf("arkinfer %.4f %d\\n", x, (int)sizeof(void *));
    return 0;
}
"""
ANSWER = "arkinfer 6.4031 8"


def check(host: Host) -> list[Finding]:
    """A finding for this machine's own compiler, and one for each other architecture."""
    here = platform.machine()
    return [probe(host, arch) for arch in (here, *(each for each in ARCHES if each != here))]


def probe(host: Host, arch: str) -> Finding:
    """Compiles, links and, where something runs the result, runs a program for `arch`."""
    name = f"C for {arch}"
    compiler = find_c_compiler(arch, host.environ, host.which)
    if compiler is None:
        wanted = usual_c_compiler(arch, host.environ)
        return Finding(name, "missing", f'there is no "{wanted}"', _install(host, arch))
    try:
        with host.scratch() as folder:
            return _compile(host, name, arch, compiler, folder)
    except OSError as error:
        where = host.temporary()
        reason = os.strerror(error.errno or 0)
        detail = f"no file can be written to {where}: {reason}"
        return Finding(name, "not known", detail, ANOTHER_TMPDIR)


def _install(host: Host, arch: str) -> str:
    if chosen_c_compiler(arch, host.environ):
        return "unset CC"
    if arch == platform.machine():
        return package(host, "C compiler")
    return pip(host, "arkinfer[cross]")


def _compile(host: Host, name: str, arch: str, compiler: CCompiler, folder: Path) -> Finding:
    install = _install(host, arch)
    (folder / "probe.c").write_text(PROGRAM)
    command = [*compiler.command, "-O1", "-pthread", "probe.c", "-lm", "-o", "probe"]
    notes = [" ".join(command)]
    outcome = host.run(command, folder)
    if not outcome.ok:
        said = f": {outcome.complaint}" if outcome.complaint else ""
        state = "not known" if outcome.hung else "broken"
        detail = f"{compiler.command[0]} does not compile and link: {outcome.problem}{said}"
        notes += outcome.err.strip().splitlines()[-10:]
        return Finding(name, state, detail, install, tuple(notes))
    machine = _machine(folder / "probe")
    if arch in MACHINES and machine != MACHINES[arch]:
        made = next((known for known, number in MACHINES.items() if number == machine), None)
        detail = f"{compiler.command[0]} makes programs for {made or f'ELF machine {machine}'}"
        return Finding(name, "broken", detail, install, tuple(notes))
    version = _version(host, compiler, folder)
    if arch == platform.machine():
        return _run(host, name, [folder / "probe"], version, notes)
    qemu = host.which(f"qemu-{arch}") or host.which(f"qemu-{arch}-static")
    system = _sysroot(host, compiler)
    if qemu is None or not system:
        detail = f"{version}: compiles and links for {arch}, which this machine does not run"
        return Finding(name, "ok", detail, notes=tuple(notes))
    return _run(host, name, [qemu, *system, folder / "probe"], version, notes)


def _run(
    host: Host, name: str, command: list[str | Path], version: str, notes: list[str]
) -> Finding:
    """Runs the program, and looks at what it computed."""
    notes.append(" ".join(map(str, command)))
    outcome = host.run(command)
    how = f" by {Path(command[0]).name}" if len(command) > 1 else ""
    if outcome.ok and outcome.out.strip() == ANSWER:
        detail = f"{version}: compiles, links and runs{how}"
        return Finding(name, "ok", detail, notes=tuple(notes))
    said = f": {outcome.complaint}" if outcome.complaint else ""
    problem = outcome.problem or f"it said {outcome.out.strip()[:80]!r}"
    detail = f"{version}: compiled, but the program does not run{how}: {problem}{said}"
    fix = ""
    if outcome.problem.endswith(("Permission denied", "Exec format error")) and not how:
        fix = ANOTHER_TMPDIR
    return Finding(name, "not known" if outcome.hung else "broken", detail, fix, tuple(notes))


def _sysroot(host: Host, compiler: CCompiler) -> list[str]:
    """What tells qemu where the C library of the architecture is, as the compiler knows it; empty:
    it has one to link with, and none to run with."""
    said = host.run([*compiler.command, "-print-file-name=libc.so.6"]).out.strip()
    library = Path(said)
    return ["-L", str(library.parents[1])] if library.is_absolute() and library.is_file() else []


def _version(host: Host, compiler: CCompiler, folder: Path) -> str:
    """The first line of --version; the name alone where that fails."""
    lines = host.run([*compiler.command, "--version"], folder).out.splitlines()
    said = lines[0].strip() if lines else ""
    return f"{compiler.name}, {said}" if said and compiler.bundled else said or compiler.name


def _machine(program: Path) -> int:
    """e_machine of a little-endian ELF file; 0: it is none."""
    try:
        head = program.open("rb").read(20)
    except OSError:
        return 0
    return (
        struct.unpack_from("<H", head, 18)[0] if head[:4] == b"\x7fELF" and len(head) == 20 else 0
    )
