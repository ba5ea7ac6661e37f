"""Whole builds with an int8 cache: how near, how small, the same bytes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import arkinfer
from arkinfer.artifact import open_artifact, verify_artifact
from arkinfer.compiler.build import build
from arkinfer.compiler.plan import plan
from arkinfer.compiler.progress import Progress
from arkinfer.errors import CheckpointError, UnsupportedError, UsageError
from arkinfer.testing import make_checkpoint


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("tiny", 0, tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="module")
def built(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both kinds of caches, with sections for both backends."""
    folder = tmp_path_factory.mktemp("built")
    backends = ("onnxruntime", "reference")
    return {
        kv: build(tiny, quant="none", kv=kv, backend=backends, output=folder / f"{kv}.ark").path
        for kv in ("fp32", "int8")
    }


@pytest.mark.parametrize("backend", ["onnxruntime", "reference"])
def test_logits_stay_near(built: dict[str, Path], backend: str) -> None:
    ids = np.random.default_rng(0).integers(0, 500, 200).tolist()
    logits: dict[str, np.ndarray] = {}
    for kv, path in built.items():
        with arkinfer.load(path, threads=2, backend=backend) as engine:
            logits[kv] = engine.logits(ids)
    error = (logits["int8"] - logits["fp32"]) / logits["fp32"].std()
    assert 1e-4 < np.sqrt(np.mean(error**2)) < 0.03
    assert np.abs(error).max() < 0.3


def test_memory_is_a_quarter_and_a_plan_knows(tiny: Path, built: dict[str, Path]) -> None:
    plans = {kv: plan(tiny, quant="none", kv=kv) for kv in ("fp32", "int8")}
    assert [p.kv for p in plans.values()] == ["fp32", "int8"]
    assert plans["fp32"].kv_bytes == 4 * plans["int8"].kv_bytes
    saved = plans["fp32"].kv_bytes - plans["int8"].kv_bytes
    assert abs(plans["fp32"].run_bytes - plans["int8"].run_bytes - saved) < 100_000
    for kv, path in built.items():
        with arkinfer.load(path, backend="reference") as engine:
            state = engine.executable.new_state(64)
            state.step(np.arange(30))
            kept = sum(cache.nbytes for cache in state._caches.values())  # of this backend's own
        assert kept == 30 * plans[kv].kv_bytes_per_token


def test_a_plan_is_right_about_the_file(tiny: Path, tmp_path: Path) -> None:
    report = build(tiny, quant="int4-g32", kv="int8", output=tmp_path / "m.ark")
    assert abs(plan(tiny, quant="int4-g32", kv="int8").artifact_bytes / report.size - 1) < 0.02


def test_report_manifest_and_stages(tiny: Path, tmp_path: Path) -> None:
    moments: list[Progress] = []
    path = tmp_path / "m.ark"
    dumps = tmp_path / "ir"
    report = build(tiny, kv="int8", output=path, dump_ir=dumps, on_progress=moments.append)
    assert report.kv == "int8"
    assert "f32" not in report.schemes  # scales are no matrices of the model
    stages = list(dict.fromkeys(moment.stage for moment in moments))
    assert stages[2:5] == [
        "optimizing the graph", "calibrating the cache", "compiling for onnxruntime",
    ]  # fmt: skip
    with open_artifact(path) as artifact:
        assert artifact.manifest["kv"] == "int8"
        assert json.loads(artifact.read("report.json"))["kv"] == "int8"
        text = artifact.read("ir.txt").decode()
        assert artifact.sections["onnxruntime"].requires == {"onnxruntime": ">=1.27"}
    assert "cache<i8>" in text
    assert "cache<f32>" not in text
    assert (dumps / "int8-cache" / "01-quantize-cache.ir").is_file()
    verify_artifact(path)


def test_without_the_option_nothing_is_calibrated(tiny: Path, tmp_path: Path) -> None:
    moments: list[Progress] = []
    report = build(tiny, output=tmp_path / "m.ark", on_progress=moments.append)
    assert report.kv == "fp32"
    assert "calibrating the cache" not in {moment.stage for moment in moments}
    with open_artifact(report.path) as artifact:
        assert artifact.manifest["kv"] == "fp32"


def test_two_builds_give_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    """That the number of threads does not matter either is shown in test_kv_scales.py."""
    for name in "ab":
        build(tiny, quant="int4-g32", kv="int8", output=tmp_path / f"{name}.ark", cache=False)
    assert (tmp_path / "a.ark").read_bytes() == (tmp_path / "b.ark").read_bytes()


@pytest.mark.parametrize(
    ("kv", "text"),
    [
        ("int4", 'There is no key-value cache in "int4". Did you mean "int8"?'),
        ("fp-32", 'There is no key-value cache in "fp-32". Did you mean "fp32"?'),
        ("f", 'There is no key-value cache in "f". Known: fp32, int8.'),
    ],
)
def test_other_caches_are_one_sentence(tiny: Path, tmp_path: Path, kv: str, text: str) -> None:
    for attempt in (
        lambda: build(tiny, kv=kv, output=tmp_path / "m.ark"),
        lambda: plan(tiny, kv=kv),
    ):
        with pytest.raises(UsageError) as error:
            attempt()
        assert text in str(error.value)
    assert not list(tmp_path.iterdir())


def test_tensorrt_refuses_before_anything_is_calibrated(tiny: Path, tmp_path: Path) -> None:
    moments: list[Progress] = []
    with pytest.raises(UnsupportedError) as error:
        build(
            tiny, target="jetson-orin", backend="tensorrt", quant="int4-g128", kv="int8",
            output=tmp_path / "m.ark", on_progress=moments.append,
        )  # fmt: skip
    assert "has no home on tensorrt for jetson-orin" in error.value.what
    assert "TensorRT keeps caches as floats" in error.value.why
    assert "calibrating the cache" not in {moment.stage for moment in moments}
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_of_another_model_is_named(tmp_path: Path) -> None:
    folder = make_checkpoint("tiny", 0, tmp_path / "tiny")
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    shift = 1000 - min(vocabulary.values())
    tokenizer["model"]["vocab"] = {text: i + shift for text, i in vocabulary.items()}
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match="a tokenizer that does not belong to its model"):
        build(folder, kv="int8", output=tmp_path / "m.ark")
    assert not (tmp_path / "m.ark").exists()
