"""The library: which compiler links it, for which architecture, and on which systems it loads."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tvm

from arkinfer.errors import DeviceError, InternalError
from arkinfer.machine import c_compiler as finder
from arkinfer.machine.c_compiler import OLDEST_GLIBC
from arkinfer.targets import load_target
from arkinfer_tvm import build, kernels
from arkinfer_tvm.build import build_library, check_c_compiler
from arkinfer_tvm.compiler import TvmCompiler
from arkinfer_tvm.cpu import ISAS
from arkinfer_tvm.isa import ISAS as ISA_DESCRIPTIONS

HERE = platform.machine()
OTHER = "aarch64" if HERE == "x86_64" else "x86_64"
MACHINE = {"x86_64": 62, "aarch64": 183}
NAMES: dict[kernels.Kernel, str] = {
    kernels.Range(): "range",
    kernels.RMSNorm(kernels.Strided(64, 64), "f32", 1e-5): "rms_norm",
    kernels.Angles(8, 1.0): "angles",
}
CPU = load_target("cpu")
LEAST = {arch: next(iter(isas)) for arch, isas in ISAS.items()}

needs_readelf = pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf")
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="needs cc")
needs_zig = pytest.mark.skipif(finder.find_zig() is None, reason="needs the package ziglang")

COMPILERS = [
    pytest.param("cc", HERE, marks=needs_cc),
    pytest.param("zig", "x86_64", marks=needs_zig),
    pytest.param("zig", "aarch64", marks=needs_zig),
    pytest.param(
        "gcc",
        OTHER,
        marks=pytest.mark.skipif(
            shutil.which(f"{OTHER}-linux-gnu-gcc") is None, reason=f"needs {OTHER}-linux-gnu-gcc"
        ),
    ),
]


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets builds find one kind of compiler."""

    def choose(kind: str) -> None:
        monkeypatch.delenv("CC", raising=False)
        if kind == "zig":
            monkeypatch.setattr(finder, "usual_c_compiler", lambda *_: "none-of-these")
        else:
            monkeypatch.setattr(finder, "find_zig", lambda: None)

    return choose


@pytest.fixture
def nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without any compiler."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(finder, "find_zig", lambda: None)


@needs_readelf
@pytest.mark.parametrize(("kind", "arch"), COMPILERS)
def test_libraries_load_on_old_systems(
    kind: str, arch: str, only: Callable[[str], None], tmp_path: Path
) -> None:
    only(kind)
    library = build_library(NAMES, LEAST[arch])
    assert int.from_bytes(library[18:20], "little") == MACHINE[arch]
    assert str(Path.cwd()).encode() not in library
    file = tmp_path / "library.so"
    file.write_bytes(library)
    listed = readelf("-V", file)
    oldest = tuple(map(int, OLDEST_GLIBC.split(".")))
    versions = set(re.findall(r"GLIBC_([\d.]+)", listed))
    assert versions
    newer = {v for v in versions if tuple(map(int, v.split("."))) > oldest}
    assert newer == set(), [line for line in readelf("--dyn-syms", file).splitlines()
                            if any(f"GLIBC_{v}" in line for v in newer)]  # fmt: skip
    needed = set(re.findall(r"NEEDED.*\[(\w+)", readelf("-d", file)))
    assert needed <= {"libc", "libm", "libpthread", "ld"}
    assert "build-id" not in readelf("-S", file)


def readelf(option: str, file: Path) -> str:
    command = ["readelf", "-W", option, str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("kind", "arch"), COMPILERS)
def test_the_same_bytes_in_another_folder(
    kind: str, arch: str, only: Callable[[str], None], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    only(kind)
    first = build_library(NAMES, LEAST[arch])
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert build_library(NAMES, LEAST[arch]) == first
    assert list(tmp_path.iterdir()) == []


def test_vectors_are_loaded_and_stored_at_once() -> None:
    """Where each lane has an index of its own, LLVM needs four times as long for a kernel."""
    isa = ISA_DESCRIPTIONS[LEAST[HERE]]
    target = tvm.target.Target({**isa.target, "opt-level": 0})
    functions = {name: kernel.function(name, isa) for kernel, name in NAMES.items()}
    with target:
        lowered = build._lowered(tvm.IRModule(functions), target)
    code = tvm.get_global_func("target.build.llvm")(lowered, target).inspect_source("ll")
    assert "load <16 x float>" in code
    assert "store <16 x float>" in code
    assert "extractelement" not in code


@pytest.mark.parametrize(("kind", "arch"), COMPILERS)
def test_the_check_compiles_a_library(kind: str, arch: str, only: Callable[[str], None]) -> None:
    only(kind)
    target = CPU.model_copy(update={"arch": arch, "isa": ()})
    TvmCompiler().check(target)


@pytest.mark.parametrize("check", [check_c_compiler, lambda a: build_library({}, LEAST[a])])
def test_no_compiler(check: Callable[[str], object], nothing: None) -> None:
    with pytest.raises(DeviceError) as refusal:
        check(HERE)
    assert str(refusal.value) == (
        f"The backend tvm cannot link kernels for {HERE} here. There is no C compiler "
        '"cc". Install compiler, linker and headers: sudo apt-get install gcc libc6-dev.'
    )
    with pytest.raises(DeviceError) as refusal:
        check(OTHER)
    assert str(refusal.value) == (
        f"The backend tvm cannot link kernels for {OTHER} here. There is no C compiler "
        f'"{OTHER}-linux-gnu-gcc". Install one that can: pip install "arkinfer[cross]".'
    )


def test_no_compiler_leaves_no_file(
    small: Any, make_artifact: Any, tmp_path: Path, nothing: None
) -> None:
    with pytest.raises(DeviceError, match='There is no C compiler "cc"'):
        make_artifact(tmp_path / "none.ark", small.module, small.store, CPU)
    assert list(tmp_path.iterdir()) == []


def fake(tmp_path: Path, body: str) -> str:
    program = tmp_path / "fakecc"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("collect2: fatal error: cannot find 'ld'", "collect2: fatal error: cannot find 'ld'"),
        ("probe.c:1:10: fatal error: pthread.h: No such file or directory\ncompilation terminated.",
         "probe.c:1:10: fatal error: pthread.h: No such file or directory"),
        ("launcher.c:7:10: fatal error: pthread.h: No such file or directory",
         "launcher.c:7:10: fatal error: pthread.h: No such file or directory"),
        ("", "exit status 1"),
    ],
)  # fmt: skip
def test_a_compiler_that_cannot_link(
    said: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = fake(tmp_path, f'printf "%s" "{said}" >&2; exit 1')
    monkeypatch.setenv("CC", program)
    with pytest.raises(DeviceError) as refusal:
        check_c_compiler(HERE)
    assert str(refusal.value) == (
        f'The C compiler "{program}" cannot link here. {line}{"" if line.endswith(".") else "."} '
        "Set CC to a C compiler that works here, or unset it."
    )


@pytest.mark.parametrize("arch", [HERE, OTHER])
def test_what_mends_a_compiler_that_nobody_chose(
    arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "cc" if arch == HERE else f"{arch}-linux-gnu-gcc"
    Path(fake(tmp_path, "exit 1")).rename(tmp_path / name)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(DeviceError) as refusal:
        check_c_compiler(arch)
    assert refusal.value.fix == (
        "Install compiler, linker and headers: sudo apt-get install gcc libc6-dev"
        if arch == HERE
        else 'Install one that can: pip install "arkinfer[cross]"'
    )


def test_a_fault_of_ours_is_called_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = fake(tmp_path, "echo \"launcher.c:9:1: error: expected ';'\" >&2; exit 1")
    monkeypatch.setenv("CC", program)
    with pytest.raises(InternalError, match="refused our launcher"):
        build_library({}, LEAST[HERE])


@needs_cc
def test_a_cross_compiler_that_compiles_for_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / f"{OTHER}-linux-gnu-gcc"
    Path(fake(tmp_path, 'exec cc "$@"')).rename(program)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(DeviceError) as refusal:
        check_c_compiler(OTHER)
    assert str(refusal.value) == (
        f'The C compiler "{OTHER}-linux-gnu-gcc" does not compile for {OTHER}. It makes libraries '
        'for another architecture. Install one that can: pip install "arkinfer[cross]".'
    )


@needs_cc
def test_words_after_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "cc -pipe -DUNUSED='a b'")
    check_c_compiler(HERE)
    assert build.c_compiler(HERE).command[1:] == ("-pipe", "-DUNUSED=a b")
