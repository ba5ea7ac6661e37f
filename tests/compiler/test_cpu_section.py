"""What is built for a board has a section for the board's own cores, too, unless it shall not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import arkinfer
from arkinfer import build, plan
from arkinfer.artifact import open_artifact
from arkinfer.compiler.by_recipe import options_by
from arkinfer.compiler.options import Asked, BuildOptions
from arkinfer.errors import UnsupportedError
from arkinfer.targets import load_target, target_names
from arkinfer.testing import make_checkpoint, preset

pytest.importorskip("triton")
SHAPE = preset("tiny", hidden_size=128, intermediate_size=256)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(SHAPE, 5, tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(autouse=True)
def one_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are compiled once for all tests of this file."""
    monkeypatch.setenv("ARKINFER_CACHE", str(tmp_path_factory.getbasetemp() / "cpu-section"))


def names(asked: Asked) -> list[str]:
    return [each.name for each in BuildOptions.make(asked).compilers]


@pytest.mark.parametrize("target", target_names())
def test_whose_sections_are_built(target: str) -> None:
    first = load_target(target).backends[0]
    both = ["tensorrt", "onnxruntime"] if first == "tensorrt" else [first]
    assert names(Asked(target)) == both
    assert names(Asked(target, no_cpu=True)) == [first]
    assert names(Asked(target, backend="onnxruntime")) == ["onnxruntime"]
    assert names(Asked(target, backend=(first, "reference"))) == [first, "reference"]


@pytest.mark.parametrize("quant", ["int4-g128", "int8", "none"])
def test_both_sections_share_the_weights(checkpoint: Path, tmp_path: Path, quant: str) -> None:
    options = {"target": "jetson-orin", "quant": quant, "context": 64}
    report = build(checkpoint, output=tmp_path / "both.ark", **options)
    alone = build(checkpoint, output=tmp_path / "one.ark", **options, no_cpu=True)
    assert report.backends == ("tensorrt", "onnxruntime")
    assert alone.backends == ("tensorrt",)
    with open_artifact(report.path) as artifact:
        assert list(artifact.sections) == ["tensorrt", "onnxruntime"]
        board, cores = (set(artifact.sections[name].tensors) for name in report.backends)
        matrices = {name for name in board | cores if name.endswith((".codes", "proj.weight"))}
        assert matrices
        assert matrices <= board & cores
    predicted = plan(checkpoint, **options)
    assert predicted.artifact_bytes == pytest.approx(report.size, rel=0.1)
    assert plan(checkpoint, **options, no_cpu=True).artifact_bytes < predicted.artifact_bytes


def test_the_boards_cores_answer_as_this_machines(checkpoint: Path, tmp_path: Path) -> None:
    """The section is the one of a build for cores alone."""
    answers: list[list[float]] = []
    for target in ("jetson-orin", "cpu"):
        path = tmp_path / f"{target}.ark"
        backends = None if target == "jetson-orin" else "onnxruntime"
        build(checkpoint, target, "int4-g128", path, context=64, backend=backends)
        with arkinfer.load(path, backend="onnxruntime", threads=1) as engine:
            answers.append(engine.logits([1, 5, 9, 3]).ravel().tolist())
    assert answers[0] == answers[1]


def test_every_op_is_placed_and_said(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.ark"
    report = build(checkpoint, "jetson-orin", "int4-g128", path, context=64)
    predicted = plan(checkpoint, "jetson-orin", "int4-g128", context=64)
    assert list(report.placement) == ["tensorrt", "onnxruntime"]
    assert report.placement == predicted.placement
    with open_artifact(path) as artifact:
        kept = json.loads(artifact.read("report.json"))
        assert kept["placement"] == report.placement
    for ops in report.placement.values():
        assert {op: sum(count.values()) for op, count in ops.items()} == report.ops


def test_what_is_slow_is_counted(checkpoint: Path) -> None:
    found = plan(checkpoint, "cpu", "int4", context=64, activations="fp32", backend="onnxruntime")
    linears = found.placement["onnxruntime"]["quant.linear"]
    assert (linears["fast"], linears["slow"] > 0) == (0, True)
    assert found.slow


def test_a_form_that_cores_have_no_kernel_for(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The board has one: what to do about the section that was not asked for is said."""
    monkeypatch.setattr("arkinfer_ort.support.BLOCKS", (96,))
    options = {"target": "jetson-orin", "quant": "int4-g128", "context": 64}
    with pytest.raises(UnsupportedError) as refusal:
        plan(checkpoint, **options)
    assert "has no home on onnxruntime for jetson-orin" in refusal.value.what
    assert refusal.value.fix == (
        "Leave out the section for the target's own cores with --no-cpu, or choose another "
        "quantization"
    )
    assert plan(checkpoint, **options, no_cpu=True).backend == "tensorrt"


def test_a_recipe_may_leave_it_out(tmp_path: Path) -> None:
    text = 'summary = "s"\nmodels = ["a/b"]\ntarget = "jetson-orin"\nquant = "int4"\n'
    for extra, expected in (("", ["tensorrt", "onnxruntime"]), ("no_cpu = true\n", ["tensorrt"])):
        file = tmp_path / "own.toml"
        file.write_text(text + extra)
        options = options_by(file, Asked())
        assert [each.name for each in options.compilers] == expected


def test_requantizing_is_for_the_board_alone() -> None:
    """Two bits are slow on cores that nobody measured, and stay as they are all the same."""
    from arkinfer.models.config import parse_config
    from arkinfer.packing import parse_scheme

    config = parse_config(SHAPE)
    ternary = {"model.layers.0.mlp.up_proj.weight": parse_scheme("int2-g64")}
    for asked in (Asked("jetson-orin", requantize=True), Asked("jetson-orin", "int4")):
        assert BuildOptions.make(asked).again(config, ternary) == {}
    cores = Asked("jetson-orin", backend="onnxruntime", requantize=True)
    assert BuildOptions.make(cores).again(config, ternary)
