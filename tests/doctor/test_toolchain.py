"""The probe of C compilers: the real one, and scripts that lie, fail, hang or are not there."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from arkinfer.doctor.host import Host
from arkinfer.doctor.toolchain import ANSWER, probe
from arkinfer.machine import c_compiler

HERE = platform.machine()
ZIG = c_compiler.find_zig()
Hosts = Callable[..., Host]
Script = Callable[[str, str], Path]

needs_a_compiler = pytest.mark.skipif(
    shutil.which("cc") is None or HERE != "x86_64", reason="needs cc on x86_64"
)
AS_AARCH64 = """\
[ "$1" = --version ] && {{ echo 'cross gcc 1.0'; exit 0; }}
case "$*" in *-print-file-name*) echo {library}; exit 0;; esac
cc "$@" || exit 1
printf '\\267' | dd of=probe bs=1 seek=18 conv=notrunc 2>/dev/null
"""
"""Compiles for this machine, and writes 183 (aarch64) into the program's header."""


@pytest.fixture(autouse=True)
def zig(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines have no ziglang unless a test gives them one."""
    monkeypatch.setattr(c_compiler, "find_zig", lambda: None)


@needs_a_compiler
def test_the_compiler_of_this_machine(make_host: Hosts):
    host = make_host(real=True)
    found = probe(host, HERE)
    assert (found.state, found.fix) == ("ok", "")
    assert found.detail.endswith(": compiles, links and runs")
    assert list(host.temporary().iterdir()) == []


def test_without_a_compiler(make_host: Hosts, script: Script):
    script("apt-get", "exit 1")
    script("sudo", "exit 1")
    found = probe(make_host(), HERE)
    assert (found.state, found.detail) == ("missing", 'there is no "cc"')
    assert found.fix.removeprefix("sudo ") == "apt-get install gcc libc6-dev"
    found = probe(make_host(CC="tcc"), HERE)
    assert (found.detail, found.fix) == ('there is no "tcc"', "unset CC")
    other = probe(make_host(), "aarch64" if HERE == "x86_64" else "x86_64")
    assert other.state == "missing"
    assert "linux-gnu-gcc" in other.detail
    assert other.fix.endswith('pip install "arkinfer[cross]"')


def test_on_a_system_without_a_known_package_manager(make_host: Hosts):
    assert probe(make_host(), HERE).fix == ""


def test_a_compiler_that_fails(make_host: Hosts, script: Script):
    script("cc", 'echo "probe.c:1:10: fatal error: math.h: No such file" >&2; exit 1')
    found = probe(make_host(), HERE)
    assert found.state == "broken"
    assert found.detail.endswith(
        "/cc does not compile and link: it failed with exit code 1: "
        "probe.c:1:10: fatal error: math.h: No such file"
    )


def test_a_compiler_that_crashes(make_host: Hosts, script: Script):
    script("cc", "kill -SEGV $$")
    found = probe(make_host(), HERE)
    assert found.state == "broken"
    assert "it crashed (SIGSEGV)" in found.detail


def test_a_compiler_that_hangs_is_not_judged(make_host: Hosts, script: Script):
    script("cc", "while :; do :; done")
    found = probe(make_host(seconds=0.5), HERE)
    assert found.state == "not known"
    assert "it did not end within 0.5 s" in found.detail


def test_a_compiler_that_writes_nothing(make_host: Hosts, script: Script):
    script("cc", "exit 0")
    found = probe(make_host(), HERE)
    assert (found.state, "makes programs for ELF machine 0" in found.detail) == ("broken", True)


@needs_a_compiler
def test_a_program_that_computes_something_else(make_host: Hosts, script: Script):
    script("cc", 'printf "#!/bin/sh\\necho arkinfer 1 8\\n" > probe; chmod +x probe')
    found = probe(make_host(real=True), HERE)
    assert found.state == "broken"  # it is no program for this machine in the first place
    script("cc", "sed 's/printf(.*/printf(\"arkinfer 0\\\\n\");/' probe.c > other.c\n"
                 '[ "$1" = --version ] || /usr/bin/cc other.c -pthread -lm -o probe')  # fmt: skip
    found = probe(make_host(real=True), HERE)
    assert found.state == "broken"
    assert "compiled, but the program does not run: it said 'arkinfer 0'" in found.detail


@needs_a_compiler
def test_a_cross_compiler_that_compiles_for_this_machine(make_host: Hosts, script: Script):
    """The mistake of mlc-llm#847, found before any model is touched."""
    script("aarch64-linux-gnu-gcc", 'exec cc "$@"')
    found = probe(make_host(real=True), "aarch64")
    assert found.state == "broken"
    assert found.detail.endswith("aarch64-linux-gnu-gcc makes programs for x86_64")


@needs_a_compiler
@pytest.mark.parametrize("lacks", ["qemu-aarch64", "a C library"])
def test_a_cross_compiler_whose_programs_do_not_run_here(
    make_host: Hosts, script: Script, lacks: str, programs: Path
) -> None:
    """Its header says that the program is for the other machine: that is what builds need."""
    library = programs / "libc.so.6"
    script("aarch64-linux-gnu-gcc", AS_AARCH64.format(library=library))
    for name in ("cc", "dd", "as", "ld"):
        (programs / name).symlink_to(str(shutil.which(name)))
    if lacks == "qemu-aarch64":
        library.touch()
    else:
        script("qemu-aarch64", "exit 255")
    found = probe(make_host(), "aarch64")
    assert (found.state, found.fix, found.gap) == ("ok", "", False)
    assert found.detail == (
        "cross gcc 1.0: compiles and links for aarch64, which this machine does not run"
    )


@needs_a_compiler
@pytest.mark.parametrize(
    ("body", "state", "detail"),
    [
        (f"echo '{ANSWER}'", "ok", "cross gcc 1.0: compiles, links and runs by qemu-aarch64"),
        ("echo 'Could not open /lib/ld.so' >&2; exit 255", "broken",
         "cross gcc 1.0: compiled, but the program does not run by qemu-aarch64: it failed with "
         "exit code 255: Could not open /lib/ld.so"),
    ],
)  # fmt: skip
def test_a_cross_compiler_and_qemu(
    make_host: Hosts, script: Script, body: str, state: str, detail: str, tmp_path: Path
):
    library = tmp_path / "aarch64" / "lib" / "libc.so.6"
    library.parent.mkdir(parents=True)
    library.touch()
    script("aarch64-linux-gnu-gcc", AS_AARCH64.format(library=library))
    script("qemu-aarch64", f'[ "$1 $2" = "-L {tmp_path}/aarch64" ] || exit 1; {body}')
    found = probe(make_host(real=True), "aarch64")
    assert (found.state, found.detail) == (state, detail)


def test_zig_is_told_the_architecture(
    make_host: Hosts, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    zig = script("zig", f'echo "$@" > {tmp_path}/said; exit 1')
    monkeypatch.setattr(c_compiler, "find_zig", lambda: zig)
    other = "aarch64" if HERE == "x86_64" else "x86_64"
    found = probe(make_host(), other)
    assert found.state == "broken"
    assert f"{zig} does not compile and link" in found.detail
    assert (tmp_path / "said").read_text().startswith(f"cc -target {other}-linux-gnu.2.28 -O1")


@pytest.mark.skipif(ZIG is None, reason="needs the package ziglang")
@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_zig(make_host: Hosts, arch: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(c_compiler, "find_zig", lambda: ZIG)
    found = probe(make_host(), arch)
    assert (found.state, found.fix) == ("ok", "")
    assert found.detail.startswith("zig cc, clang version")


def test_no_folder_for_temporary_files(make_host: Hosts, script: Script, tmp_path: Path):
    script("cc", "exit 0")
    found = probe(make_host(TMPDIR=str(tmp_path / "gone")), HERE)
    assert found.state == "not known"
    assert found.detail == f"no file can be written to {tmp_path}/gone: No such file or directory"
    assert found.fix == "mkdir -p ~/tmp && export TMPDIR=~/tmp"
