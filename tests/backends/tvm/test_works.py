"""Libraries that builds keep: compiled once, and again as soon as anything is another."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
import tvm

from arkinfer.artifact import ArtifactWriter, open_artifact
from arkinfer.backend.sources import digest_of
from arkinfer.compiler.cache import Cache
from arkinfer.compiler.section import MeasuringWriter, SectionWriter
from arkinfer.compiler.weights import WeightStore
from arkinfer.machine import c_compiler as finder
from arkinfer.targets import load_target
from arkinfer_tvm import kernels, works
from arkinfer_tvm.compiler import TvmCompiler
from arkinfer_tvm.cpu import ISAS
from arkinfer_tvm.works import library_works

LEAST, *_, BETTER = ISAS[platform.machine()]
NORM = kernels.RMSNorm(kernels.Strided(64, 64), "f32", 1e-5)
NAMES: dict[kernels.Kernel, str] = {kernels.Range(): "range_0", NORM: "rms_norm_1"}
NO_WEIGHTS = cast("WeightStore", None)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The instruction sets that libraries are compiled for, in order."""
    asked: list[str] = []
    real = works.build_library

    def build(names: Mapping[kernels.Kernel, str], isa: str) -> bytes:
        asked.append(isa)
        return real(names, isa)

    monkeypatch.setattr(works, "build_library", build)
    return asked


Maker = Callable[..., list[bytes]]


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """make(names, *isas): the libraries, from the cache of this test if it has them."""

    def make_them(names: Mapping[kernels.Kernel, str], *isas: str) -> list[bytes]:
        with ArtifactWriter(tmp_path / "any.ark") as artifact:
            writer = SectionWriter("tvm", artifact, NO_WEIGHTS, cache=Cache(tmp_path / "cache"))
            return writer.made(library_works(dict.fromkeys(isas, names)))

    return make_them


def test_a_library_is_compiled_once(
    make: Maker, compiled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(NAMES, LEAST, BETTER)
    assert compiled == [LEAST, BETTER]
    assert make(NAMES, LEAST, BETTER) == first
    assert make(dict(NAMES), BETTER) == first[1:]
    assert compiled == [LEAST, BETTER]
    assert first[0] != first[1]
    for entry in Cache(tmp_path / "cache").entries():
        assert entry.kind == "works"
        entry.path.write_bytes(entry.path.read_bytes()[:-40] + bytes(40))
    assert make(NAMES, LEAST) == first[:1]
    assert compiled == [LEAST, BETTER, LEAST]


OTHERS: dict[str, dict[kernels.Kernel, str]] = {
    "a field": {kernels.Range(): "range_0", replace(NORM, eps=1e-6): "rms_norm_1"},
    "a field of a field": {
        kernels.Range(): "range_0",
        replace(NORM, x=kernels.Strided(64, 128)): "rms_norm_1",
    },
    "a name": {kernels.Range(): "range_0", NORM: "rms_norm_2"},
    "one more": {**NAMES, kernels.Angles(8, 1.0): "angles_2"},
    "the order": dict(reversed(NAMES.items())),
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_kernels_are_compiled(what: str, make: Maker, compiled: list[str]) -> None:
    make(NAMES, LEAST)
    make(OTHERS[what], LEAST)
    assert compiled == [LEAST, LEAST]


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs cc")
def test_other_tools_compile_again(
    make: Maker, compiled: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make(NAMES, LEAST)
    for change in (
        lambda: monkeypatch.setattr(works, "_code", lambda: "another"),
        lambda: monkeypatch.setattr(tvm, "__version__", "0.99"),
        lambda: monkeypatch.setenv("CC", "cc -pipe"),
        lambda: monkeypatch.setenv("CC", _newer(tmp_path)),
    ):
        count = len(compiled)
        change()
        make(NAMES, LEAST)
        make(NAMES, LEAST)
        assert len(compiled) == count + 1


def _newer(tmp_path: Path) -> str:
    """A C compiler that says that it is another version."""
    program = tmp_path / "cc"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo 99 && exit\nexec {shutil.which("cc")} "$@"\n'
    )
    program.chmod(0o755)
    return str(program)


def test_the_code_counts_with_the_launcher(tmp_path: Path) -> None:
    package = Path(works.__file__).parent
    known = digest_of(package, (".py", ".c", ".h"))
    digests = {known}
    for change in ("launcher.c", "glibc.h", "isa/avx2.py", "kernels/finish.py"):
        copy = tmp_path / change.replace("/", "_")
        for file in (f for f in package.rglob("*") if f.suffix in (".py", ".c", ".h")):
            place = copy / file.relative_to(package)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read_bytes())
        assert digest_of(copy, (".py", ".c", ".h")) == known
        with (copy / change).open("a") as file:
            file.write("\n")
        digests.add(digest_of(copy, (".py", ".c", ".h")))
    assert len(digests) == 5


def kinds(base: type[Any]) -> set[type[Any]]:
    return {base, *(kind for each in base.__subclasses__() for kind in kinds(each))}


def test_the_repr_of_a_kernel_has_every_field() -> None:
    """Equal kernels are compiled once, and only equal ones have the same repr."""
    seen = [kind for kind in kinds(kernels.Kernel) if is_dataclass(kind)]
    assert len(seen) > 12
    for kind in seen:
        assert kind.__repr__ is not object.__repr__, kind
        assert all(field.repr == field.compare for field in fields(kind)), kind


def test_a_plan_compiles_nothing_and_takes_libraries_for_about_their_size(
    small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(works, "build_library", lambda *_: pytest.fail("a plan compiles"))
    monkeypatch.setattr(finder, "find_zig", lambda: None)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CC", "")
    writer = MeasuringWriter("tvm", WeightStore(small.module.weights, small.store))
    TvmCompiler().compile(small.module, load_target("cpu"), writer)
    (planned,) = (size for name, size in writer.entries.items() if name.endswith(".so"))
    with open_artifact(small.path) as artifact:
        (variant,) = artifact.sections["tvm"].config["variants"]
        found = len(artifact.read(variant["library"]))
    assert 0.5 < planned / found < 2
