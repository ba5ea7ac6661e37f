"""`--activations`: what it changes, where it is told of, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arkinfer
from arkinfer.artifact import open_artifact
from arkinfer.cli import inspect as command
from arkinfer.cli import main
from arkinfer.compiler.build import build
from arkinfer.compiler.plan import plan
from arkinfer.errors import UsageError
from arkinfer.frontend.checkpoint import open_checkpoint
from arkinfer.testing import make_checkpoint, preset
from arkinfer.testing.torch_model import torch_model, torch_step
from tests.backends.expectations import TOLERANCES

EXACT = 2e-3
"""Of the largest logit: what a build has to hold whose activations stay as they are."""

IDS = np.random.default_rng(0).integers(3, 500, 24).tolist()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("tiny", 0, tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests here: no kind of activations may find what another one left."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def shared(own_cache: Path, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARKINFER_CACHE", str(cached))


def logits(path: Path, backend: str | None = None) -> np.ndarray:
    with arkinfer.load(path, backend=backend, threads=1) as engine:
        return engine.logits(IDS)


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("quant", ["int4-g32-asym", "int8-g128"])
def test_activations_as_they_are(tiny: Path, tmp_path: Path, quant: str) -> None:
    """Embedding and head have 8 bits; int8 activations are built first and miss the bound."""
    options: dict[str, Any] = {"quant": quant, "backend": ("onnxruntime", "reference")}
    errors: dict[str | None, float] = {}
    for asked in (None, "fp32"):
        path = build(tiny, output=tmp_path / "m.ark", activations=asked, **options).path
        errors[asked] = error(logits(path), logits(path, "reference"))
    assert EXACT < errors[None] < TOLERANCES["onnxruntime"].quantized
    assert errors["fp32"] < 1e-5


@pytest.mark.parametrize("parts", [1, 2, 8])
def test_ternary_weights_with_activations_as_they_are(tmp_path: Path, parts: int) -> None:
    """A scale per row, per shard, and groups; rows in units of 128 would be looked up."""
    shape = preset("tiny", num_hidden_layers=1, max_position_embeddings=128)
    folder = make_checkpoint(shape, 0, tmp_path / "model", ternary=parts)
    with open_checkpoint(folder) as checkpoint:
        expected, _ = torch_step(torch_model(checkpoint.config, checkpoint), np.array(IDS))
    errors: dict[str, float] = {}
    for asked in ("int8", "fp32"):
        report = build(
            folder,
            output=tmp_path / "m.ark",
            embedding="none",
            activations=asked,
            backend="onnxruntime",
        )
        assert report.quant == "ternary"
        errors[asked] = error(logits(report.path), expected)
    assert 1e-4 < errors["int8"] < TOLERANCES["onnxruntime"].quantized
    assert errors["fp32"] < 1e-5
    assert [line.partition(": ")[2][:45] for line in report.slow] == [
        "with activations in fp32 two bits become four"
    ]


def test_where_it_is_told(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = ("onnxruntime", "tvm")
    report = build(tiny, quant="int4-g32", backend=both, output=tmp_path / "usual.ark")
    assert report.activations == {"onnxruntime": "int8", "tvm": "int8"}
    out = tmp_path / "exact.ark"
    words = "--quant int4-g32 --activations fp32 --backend onnxruntime -o".split()
    assert main(["build", str(tiny), *words, str(out)]) == 0
    shown = capsys.readouterr().out
    assert "products  with activations in fp32\n" in shown
    assert "with activations in fp32 a product takes 3 times as long" in shown
    with open_artifact(out) as artifact:
        assert artifact.sections["onnxruntime"].activations == "fp32"
        assert json.loads(artifact.read("report.json"))["activations"] == {"onnxruntime": "fp32"}
    command.inspect(str(report.path), json=True)
    sections = json.loads(capsys.readouterr().out)["sections"]
    assert [(s["backend"], s["activations"]) for s in sections] == [
        ("onnxruntime", "int8"), ("tvm", "int8"),
    ]  # fmt: skip
    command.inspect(str(out))
    assert re.search(r"onnxruntime>=1.23 +fp32 ", capsys.readouterr().out)


def test_what_is_not_quantized_takes_them_as_they_are(tiny: Path, tmp_path: Path) -> None:
    report = build(
        tiny, quant="none", output=tmp_path / "m.ark", activations="fp32", backend="onnxruntime"
    )
    assert (report.activations, report.slow) == ({}, ())
    with open_artifact(report.path) as artifact:
        assert "activations" not in artifact.manifest["sections"][0]


def test_a_plan_knows_it(tiny: Path, tmp_path: Path) -> None:
    usual = plan(tiny, quant="int4-g32", backend="onnxruntime")
    assert (usual.activations, usual.slow) == ("int8", ())
    exact = plan(tiny, quant="int4-g32", activations="fp32", backend="onnxruntime")
    report = build(
        tiny, quant="int4-g32", activations="fp32", output=tmp_path / "m.ark", backend="onnxruntime"
    )
    assert (exact.activations, exact.slow) == ("fp32", report.slow)
    assert len(exact.slow) == 2  # four bits in the layers, eight in the head
    assert abs(exact.artifact_bytes / report.size - 1) < 0.02


def test_a_recipe_says_it_and_an_option_wins(tiny: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'summary = "x"\nmodels = ["a/b"]\ntarget = "cpu"\nquant = "int4-g32"\n'
        'activations = "fp32"\n'
    )
    assert plan(tiny, recipe=recipe, backend="onnxruntime").activations == "fp32"
    assert (
        plan(tiny, recipe=recipe, activations="int8", backend="onnxruntime").activations == "int8"
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"activations": "int9"},
            'There are no activations in "int9". Did you mean "int8"? Known: fp32, int16, int8.',
        ),
        (
            {"activations": "fp32", "target": "jetson-orin", "backend": "tensorrt"},
            "tensorrt does not take activations in fp32. It takes them in fp16. Leave "
            "--activations out, or choose another backend with --backend.",
        ),
        (
            {"activations": "int8", "quant": "none"},
            "No matrix is quantized, so that activations stay as they are. int8 was asked for, "
            "which is for products with quantized matrices. Leave --activations out, or quantize: "
            "--quant int8.",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(
    tiny: Path, tmp_path: Path, options: dict[str, Any], text: str
) -> None:
    for attempt in (
        lambda: build(tiny, output=tmp_path / "m.ark", **options),
        lambda: plan(tiny, **options),
    ):
        with pytest.raises(UsageError) as caught:
            attempt()
        assert str(caught.value) == text
    assert not (tmp_path / "m.ark").exists()
