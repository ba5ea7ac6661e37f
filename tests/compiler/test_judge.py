"""A build measures what its quantization costs, and holds gates by quantizing less."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import arkinfer
from arkinfer.artifact import open_artifact
from arkinfer.compiler.build import BuildReport, build
from arkinfer.errors import GateError
from arkinfer.frontend.hub import demo_checkpoint
from arkinfer.quality.gates import Gates
from arkinfer.quality.report import parse_quality


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("judged")


@pytest.fixture(scope="module", autouse=True)
def own_cache(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARKINFER_CACHE", str(folder / "cache"))
        yield


@pytest.fixture(scope="module")
def plain(folder: Path) -> BuildReport:
    return build(
        demo_checkpoint(), quant="int4-g128", output=folder / "plain.ark", backend="onnxruntime"
    )


def kl(report: BuildReport) -> float:
    assert report.quality is not None
    return parse_quality(report.quality).mean_kl


def report_of(path: Path) -> dict[str, Any]:
    with open_artifact(path) as artifact:
        return json.loads(artifact.read("report.json"))


def test_it_is_in_the_report_and_in_the_file(plain: BuildReport) -> None:
    assert 0.01 < kl(plain) < 0.5
    inside = report_of(plain.path)
    assert inside["quality"] == plain.quality
    paths = [layer["path"] for layer in inside["layers"]]
    assert paths == ["", *(f"model.layers.{i}" for i in range(8))]
    assert {layer["bits"] for layer in inside["layers"]} == {4.25, 8.25}
    assert inside["raised"] == []


def test_more_bits_cost_less(plain: BuildReport, folder: Path) -> None:
    int8 = build(demo_checkpoint(), quant="int8", output=folder / "int8.ark", backend="onnxruntime")
    assert kl(int8) < kl(plain) / 20


def test_what_is_not_quantized_costs_nothing(folder: Path) -> None:
    report = build(
        demo_checkpoint(), quant="none", output=folder / "none.ark", backend="onnxruntime"
    )
    assert report.quality is None
    assert report_of(report.path)["quality"] is None


def test_gates_raise_the_fewest_layers(plain: BuildReport, folder: Path) -> None:
    assert plain.quality is not None
    before = parse_quality(plain.quality)
    path = folder / "gated.ark"
    report = build(
        demo_checkpoint(),
        quant="int4-g128",
        output=path,
        gates=Gates(max_kl=0.6 * kl(plain)),
        backend="onnxruntime",
    )
    assert kl(report) <= 0.6 * kl(plain)
    count = len(report.raised)
    assert 0 < count < 8
    assert report.raised == tuple(layer.path for layer in before.most_sensitive()[:count])
    bits = {layer["path"]: layer["bits"] for layer in report_of(path)["layers"]}
    assert {p for p, b in bits.items() if b == 8.25 and p} == set(report.raised)
    with arkinfer.load(path) as engine:
        assert "".join(engine.generate("The", max_new_tokens=3))


def test_gates_that_nothing_holds_leave_no_file(plain: BuildReport, folder: Path) -> None:
    path = folder / "refused.ark"
    gates = Gates(max_kl=0.6 * kl(plain), max_size=5_000_000)
    with pytest.raises(GateError, match="The build misses its gates"):
        build(demo_checkpoint(), quant="int4-g128", output=path, gates=gates, backend="onnxruntime")
    assert not list(folder.glob("refused*"))


def test_gates_do_not_change_a_build_that_holds_them(plain: BuildReport, folder: Path) -> None:
    path = folder / "same.ark"
    build(
        demo_checkpoint(),
        quant="int4-g128",
        output=path,
        gates=Gates(max_kl=1.0),
        backend="onnxruntime",
    )
    assert path.read_bytes() == plain.path.read_bytes()
