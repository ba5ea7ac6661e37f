"""Compiles, links and runs a short C program for an architecture before any model is touched.

Backends that bring compiled kernels need it. Knows no backend.
"""

from __future__ import annotations

import os
import platform
import struct
from dataclasses import dataclass
from pathlib import Path

from arkinfer.doctor.disk import ANOTHER_TMPDIR
from arkinfer.doctor.finding import Finding
from arkinfer.doctor.host import Host
from arkinfer.doctor.install import package

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


@dataclass(frozen=True)
class Compiler:
    """A C compiler and what makes it compile for an architecture."""

    path: Path
    options: tuple[str, ...] = ()


def check(host: Host) -> list[Finding]:
    """A finding for this machine's own compiler, and one for each other architecture."""
    here = platform.machine()
    return [probe(host, arch) for arch in (here, *(each for each in ARCHES if each != here))]


def probe(host: Host, arch: str) -> Finding:
    """Compiles, links and, where something runs the result, runs a program for `arch`."""
    name, what = f"C for {arch}", "C compiler"
    native = arch == platform.machine()
    if not native:
        what = f"{what} for {arch}"
    compiler = _native(host) if native else _cross(host, arch)
    if compiler is None:
        wanted = host.environ.get("CC") or "cc" if native else f"{arch}-linux-gnu-gcc"
        return Finding(name, "missing", f'there is no "{wanted}"', package(host, what))
    try:
        with host.scratch() as folder:
            return _compile(host, name, arch, compiler, folder)
    except OSError as error:
        where = host.temporary()
        reason = os.strerror(error.errno or 0)
        detail = f"no file can be written to {where}: {reason}"
        return Finding(name, "not known", detail, ANOTHER_TMPDIR)


def _native(host: Host) -> Compiler | None:
    """The one that builds use: $CC, else cc."""
    found = host.which(host.environ.get("CC") or "cc")
    return found and Compiler(found)


def _cross(host: Host, arch: str) -> Compiler | None:
    if found := host.which(f"{arch}-linux-gnu-gcc"):
        return Compiler(found)
    found = host.which("clang")
    return found and Compiler(found, (f"--target={arch}-linux-gnu",))


def _compile(host: Host, name: str, arch: str, compiler: Compiler, folder: Path) -> Finding:
    native = arch == platform.machine()
    install = package(host, "C compiler" if native else f"C compiler for {arch}")
    (folder / "probe.c").write_text(PROGRAM)
    command = [compiler.path, *compiler.options, "-O1", "-pthread", "probe.c", "-lm", "-o", "probe"]
    notes = [" ".join(map(str, command))]
    outcome = host.run(command, folder)
    if not outcome.ok:
        said = f": {outcome.complaint}" if outcome.complaint else ""
        state = "not known" if outcome.hung else "broken"
        detail = f"{compiler.path} does not compile and link: {outcome.problem}{said}"
        notes += outcome.err.strip().splitlines()[-10:]
        return Finding(name, state, detail, install, tuple(notes))
    machine = _machine(folder / "probe")
    if arch in MACHINES and machine != MACHINES[arch]:
        made = next((known for known, number in MACHINES.items() if number == machine), None)
        detail = f"{compiler.path} makes programs for {made or f'ELF machine {machine}'}"
        return Finding(name, "broken", detail, install, tuple(notes))
    version = _version(host, compiler, folder)
    if native:
        return _run(host, name, [folder / "probe"], version, notes)
    qemu = host.which(f"qemu-{arch}") or host.which(f"qemu-{arch}-static")
    if qemu is None:
        detail = f"{version}: compiled, not run, as there is no qemu-{arch}"
        return Finding(name, "not known", detail, package(host, "qemu"), tuple(notes))
    return _run(host, name, [qemu, *_sysroot(host, compiler), folder / "probe"], version, notes)


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


def _sysroot(host: Host, compiler: Compiler) -> list[str]:
    """What tells qemu where the C library of the architecture is, as the compiler knows it."""
    said = host.run([compiler.path, *compiler.options, "-print-file-name=libc.so.6"]).out.strip()
    library = Path(said)
    return ["-L", str(library.parents[1])] if library.is_absolute() and library.is_file() else []


def _version(host: Host, compiler: Compiler, folder: Path) -> str:
    """The first line of --version; the name alone where that fails."""
    lines = host.run([compiler.path, "--version"], folder).out.splitlines()
    return lines[0].strip() if lines and lines[0].strip() else compiler.path.name


def _machine(program: Path) -> int:
    """e_machine of a little-endian ELF file; 0: it is none."""
    try:
        head = program.open("rb").read(20)
    except OSError:
        return 0
    return (
        struct.unpack_from("<H", head, 18)[0] if head[:4] == b"\x7fELF" and len(head) == 20 else 0
    )
