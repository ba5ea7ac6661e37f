"""What is built for a board has a section for the board's own cores, too, unless it shall not."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path

import pytest

import arkinfer
from arkinfer import build, plan
from arkinfer.artifact import open_artifact
from arkinfer.compiler.build import BuildReport
from arkinfer.compiler.by_recipe import options_by
from arkinfer.compiler.options import Asked, BuildOptions
from arkinfer.errors import DeviceError, ResourceError, UnsupportedError
from arkinfer.machine.c_compiler import find_c_compiler
from arkinfer.targets import load_target, target_names
from arkinfer.testing import make_checkpoint, preset
from arkinfer_tvm.support import RULES

pytest.importorskip("triton")
pytest.importorskip("tvm")
SHAPE = preset("tiny", hidden_size=128, intermediate_size=256)
SMALL = {"context": 64, "chunk": 1}
"""One program of three: what takes time is compiling kernels."""

needs_cross = pytest.mark.skipif(
    find_c_compiler("aarch64") is None, reason="needs a C compiler for aarch64"
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(SHAPE, 5, tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(autouse=True)
def one_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are compiled once for all tests of this file."""
    monkeypatch.setenv("ARKINFER_CACHE", str(tmp_path_factory.getbasetemp() / "cpu-section"))


@pytest.fixture(scope="module")
def both(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildReport:
    """A file for any Orin, with the section for its cores."""
    path = tmp_path_factory.mktemp("both") / "m.ark"
    return build(checkpoint, "jetson-orin", "int4-g128", path, **SMALL)


def names(asked: Asked) -> list[str]:
    return [each.name for each in BuildOptions.make(asked).compilers]


@pytest.mark.parametrize("target", target_names())
def test_whose_sections_are_built(target: str) -> None:
    first = load_target(target).backends[0]
    both = ["tensorrt", "tvm"] if first == "tensorrt" else [first]
    assert names(Asked(target)) == both
    assert names(Asked(target, no_cpu=True)) == [first]
    assert names(Asked(target, backend="onnxruntime")) == ["onnxruntime"]
    assert names(Asked(target, backend=(first, "reference"))) == [first, "reference"]


@pytest.mark.parametrize("quant", ["int4-g128", "int8", "none"])
def test_sections_that_read_weights_as_they_are_share_them(
    checkpoint: Path, tmp_path: Path, quant: str
) -> None:
    backends = ("tensorrt", "onnxruntime")
    path = tmp_path / "both.ark"
    build(checkpoint, "jetson-orin", quant, path, backend=backends, context=64)
    with open_artifact(path) as artifact:
        board, cores = (set(artifact.sections[name].tensors) for name in backends)
        matrices = {name for name in board | cores if name.endswith((".codes", "proj.weight"))}
        assert matrices
        assert matrices <= board & cores


@needs_cross
def test_both_sections_are_in_the_file(both: BuildReport) -> None:
    with open_artifact(both.path) as artifact:
        assert list(artifact.sections) == list(both.backends) == ["tensorrt", "tvm"]
        config = artifact.sections["tvm"].config
        assert config["platform"] == "linux-aarch64"
        assert [each["isa"] for each in config["variants"]] == ["dotprod"]
    assert both.caches == {"tensorrt": "fp16", "tvm": "bf16"}


@needs_cross
def test_their_size_is_predicted(both: BuildReport, checkpoint: Path) -> None:
    predicted = plan(checkpoint, "jetson-orin", "int4-g128", **SMALL)
    alone = plan(checkpoint, "jetson-orin", "int4-g128", **SMALL, no_cpu=True)
    assert predicted.artifact_bytes == pytest.approx(both.size, rel=0.1)
    assert alone.artifact_bytes < predicted.artifact_bytes


@needs_cross
def test_their_room_on_the_disk_is_asked_for(
    both: BuildReport, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the byte, before any is written: most weights are there twice, shared ones once."""
    with open_artifact(both.path) as artifact:
        weights = [each.size for each in artifact.entries() if each.name.startswith("weights/")]
    free = sum(weights) - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(free, 0, free))
    with pytest.raises(ResourceError) as refusal:
        build(checkpoint, "jetson-orin", "int4-g128", tmp_path / "m.ark", **SMALL)
    assert f"it takes {free + 1:,} bytes at least. {free:,} bytes are free" in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs the desktop's architecture")
def test_the_boards_cores_answer_as_a_processor_alone(checkpoint: Path, tmp_path: Path) -> None:
    """The section is the one of a build for cores alone."""
    answers: list[list[float]] = []
    for target in ("rtx-4090", "x86-64-v3"):
        path = tmp_path / f"{target}.ark"
        build(checkpoint, target, "int4-g128", path, **SMALL)
        with arkinfer.load(path, backend="tvm", threads=1) as engine:
            answers.append(engine.logits([1, 5, 9, 3]).ravel().tolist())
    assert answers[0] == answers[1]


@needs_cross
def test_every_op_is_placed_and_said(both: BuildReport, checkpoint: Path) -> None:
    predicted = plan(checkpoint, "jetson-orin", "int4-g128", **SMALL)
    assert list(both.placement) == ["tensorrt", "tvm"]
    assert both.placement == predicted.placement
    with open_artifact(both.path) as artifact:
        kept = json.loads(artifact.read("report.json"))
        assert kept["placement"] == both.placement
    for ops in both.placement.values():
        assert {op: sum(count.values()) for op, count in ops.items()} == both.ops


def test_a_build_without_a_cross_compiler_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before the checkpoint is even looked for."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("arkinfer.machine.c_compiler.find_zig", lambda: None)
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(DeviceError) as refusal:
        build(tmp_path / "nothing", "jetson-orin")
    assert str(refusal.value) == (
        "The backend tvm cannot link kernels for aarch64 here. There is no C compiler "
        '"aarch64-linux-gnu-gcc". Install one that can: pip install "arkinfer[cross]", or leave '
        "out the section for the target's own cores: --no-cpu."
    )


@pytest.mark.parametrize("backend", ["onnxruntime", "tvm"])
def test_what_is_slow_is_counted(checkpoint: Path, backend: str) -> None:
    found = plan(checkpoint, "cpu", "int4", context=64, activations="fp32", backend=backend)
    linears = found.placement[backend]["quant.linear"]
    assert (linears["fast"], linears["slow"] > 0) == (0, True)
    assert found.slow


def test_a_form_that_cores_have_no_kernel_for(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The board has one: what to do about the section that was not asked for is said."""
    monkeypatch.delitem(RULES, "quant.linear")
    options = {"target": "jetson-orin", "quant": "int4-g128", "context": 64}
    with pytest.raises(UnsupportedError) as refusal:
        plan(checkpoint, **options)
    assert "has no home on tvm for jetson-orin" in refusal.value.what
    assert refusal.value.fix == (
        "Leave out the section for the target's own cores with --no-cpu, or choose another "
        "quantization"
    )
    assert plan(checkpoint, **options, no_cpu=True).backend == "tensorrt"


def test_a_recipe_may_leave_it_out(tmp_path: Path) -> None:
    text = 'summary = "s"\nmodels = ["a/b"]\ntarget = "jetson-orin"\nquant = "int4"\n'
    for extra, expected in (("", ["tensorrt", "tvm"]), ("no_cpu = true\n", ["tensorrt"])):
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
