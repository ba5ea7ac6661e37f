"""Kernels in a file: what is written is read, and nothing else; and compiled once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from arkinfer.artifact import ArtifactWriter
from arkinfer.compiler.cache import Cache
from arkinfer.compiler.section import MeasuringWriter, SectionWriter
from arkinfer.compiler.weights import WeightStore
from arkinfer_trt.kernels import works
from arkinfer_trt.kernels.gemv import Gemv, Kernel, Tile, kernel_name, tactics
from arkinfer_trt.kernels.stored import kernel_json, kernels_file, read_kernels
from arkinfer_trt.kernels.works import kernel_works

KERNELS = [Kernel("one", ".entry one()\n\t// µ", 128, 0), Kernel("two", ".entry two()", 64, 4096)]
DATA = kernels_file(87, [kernel_json(kernel) for kernel in KERNELS])


def test_round_trip() -> None:
    assert read_kernels(DATA) == {kernel.name: kernel for kernel in KERNELS}
    assert json.loads(DATA)["sm"] == 87
    assert read_kernels(kernels_file(87, [])) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"sm": 0},
        {"sm": None},
        {"kernels": None},
        {"kernels": ["one"]},
        *[{"kernels": [{**json.loads(DATA)["kernels"][0], **wrong}]} for wrong in (
            {"name": ""}, {"name": 3}, {"ptx": None}, {"threads": 0}, {"threads": 2048},
            {"threads": True}, {"shared": -1}, {"shared": 1 << 20}, {"shared": 1.5},
        )],
        {"kernels": [json.loads(DATA)["kernels"][0]] * 2},
    ],
)  # fmt: skip
def test_refuses_anything_else(change: dict[str, Any]) -> None:
    with pytest.raises((ArithmeticError, AttributeError, LookupError, TypeError, ValueError)):
        read_kernels(json.dumps({**json.loads(DATA), **change}).encode())


@pytest.mark.parametrize("data", [b"", b"[]", DATA[:-3], b'{"sm":87,"sm":87,"kernels":[]}'])
def test_refuses_what_is_no_such_json(data: bytes) -> None:
    with pytest.raises((AttributeError, LookupError, TypeError, ValueError)):
        read_kernels(data)


GEMVS = [Gemv(4, 32, 256, 64), Gemv(4, 32, 256, 4096), Gemv(8, 256, 256, 64)]


def test_each_kernel_is_one_work() -> None:
    """Products that differ in width share theirs."""
    pytest.importorskip("triton")
    found = [work.name for work in kernel_works(GEMVS, 87)]
    assert sorted(found) == sorted(
        {kernel_name(gemv, tile) for gemv in GEMVS for tile in tactics(gemv).values()}
    )


def test_facts_tell_kernels_and_capabilities_apart() -> None:
    pytest.importorskip("triton")
    facts = [work.facts for sm in (87, 89) for work in kernel_works(GEMVS, sm)]
    assert len(set(facts)) == len(facts)


def test_a_kernel_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    asked: list[str] = []
    real = works.compiled

    def compiled(gemv: Gemv, tile: Tile, sm: int) -> Any:
        asked.append(kernel_name(gemv, tile))
        return real(gemv, tile, sm)

    monkeypatch.setattr(works, "compiled", compiled)
    told: list[tuple[str, int, int]] = []
    made: list[list[bytes]] = []
    for number in range(2):
        with ArtifactWriter(tmp_path / f"{number}.ark") as artifact:
            writer = SectionWriter(
                "tensorrt", artifact, cast("WeightStore", None),
                cache=Cache(tmp_path / "cache"), on_work=lambda *said: told.append(said),
            )  # fmt: skip
            made.append(writer.made(kernel_works(GEMVS[:1], 87)))
    names = [work.name for work in kernel_works(GEMVS[:1], 87)]
    assert asked == names
    assert made[0] == made[1]
    assert list(read_kernels(kernels_file(87, made[0]))) == names
    assert told == 2 * [(f"compiling {name}", done, len(names)) for done, name in enumerate(names)]


def test_a_plan_compiles_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(works, "compiled", lambda *_: pytest.fail("a plan compiles"))
    writer = MeasuringWriter("tensorrt", cast("WeightStore", None))
    sizes = [len(kernel) for kernel in writer.made(kernel_works(GEMVS, 87))]
    assert all(size == works.TYPICAL for size in sizes)
