"""Checkpoints that others have quantized, from the folder to the answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import arkinfer
from arkinfer.artifact import open_artifact
from arkinfer.errors import CheckpointError, UnsupportedError, UsageError
from arkinfer.frontend.checkpoint import open_checkpoint
from arkinfer.testing import make_checkpoint, preset
from arkinfer.testing.torch_model import torch_model, torch_step
from tests.backends.expectations import TOLERANCES
from tests.compiler.quantized_folders import FOLDERS, linears

SCHEMES = {
    "gptq": {"int4-g64"},
    "gptq-order": {"int4-g32-asym-actorder"},
    "awq": {"int4-g128-asym"},
    "compressed": {"int4-g32-asym"},
    "int8": {"int8-row"},
    "marlin": {"int4-g64"},
    "mlx": {"int4-g64-min", "int6-g64-min"},
}

EXACT = 2e-3
"""Of the largest logit; a backend that quantizes activations has a tolerance of its own."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = {**preset("tiny"), "torch_dtype": "float16"}
    return make_checkpoint(config, 3, tmp_path_factory.mktemp("plain") / "tiny")


@pytest.fixture(scope="module")
def folders(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("quantized")
    return {name: make(plain, home / name) for name, make in FOLDERS.items()}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that all tests here share: the graph is the same for all."""
    return tmp_path_factory.mktemp("graph")


@pytest.fixture(autouse=True)
def shared(own_cache: Path, graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARKINFER_CACHE", str(graph))


def expected_logits(folder: Path, ids: list[int]) -> np.ndarray:
    """Of the torch module with the dequantized weights."""
    with open_checkpoint(folder) as checkpoint:
        model = torch_model(checkpoint.config, checkpoint, context=64)
    logits, _ = torch_step(model, np.array(ids))
    return logits


IDS = np.random.default_rng(0).integers(3, 500, 24).tolist()


def error(artifact: Path, folder: Path) -> float:
    """The largest error of a logit, of the largest logit."""
    expected = expected_logits(folder, IDS)
    with arkinfer.load(artifact, threads=1) as engine:
        found = engine.logits(IDS)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", [n for n in FOLDERS if n != "mlx"])
def test_onnxruntime_runs_them_as_they_are(folders: dict[str, Path], tmp_path: Path, name: str):
    report = arkinfer.build(
        folders[name], output=tmp_path / "m.ark", context=64, backend="onnxruntime"
    )
    assert set(report.schemes) == {*SCHEMES[name], "f16"}
    assert report.quant == "none"
    assert report.slow == report.requantized == ()
    assert error(report.path, folders[name]) < TOLERANCES["onnxruntime"].quantized


@pytest.mark.parametrize(
    ("backend", "name"),
    [
        *((backend, name) for backend in ("reference", "tvm") for name in FOLDERS),
        *(
            ("onnxruntime", name) for name in FOLDERS if name != "mlx"
        ),  # which it has no kernels for
    ],
)
def test_answers_are_those_of_the_dequantized_model(
    folders: dict[str, Path], tmp_path: Path, name: str, backend: str
):
    report = arkinfer.build(
        folders[name], output=tmp_path / "m.ark", context=64, backend=backend, quant="none",
        activations="fp32",
    )  # fmt: skip
    assert set(report.schemes) - {"f16"} == SCHEMES[name]
    assert error(report.path, folders[name]) < EXACT


def test_the_checkpoint_gives_the_dequantized_numbers(folders: dict[str, Path]):
    with open_checkpoint(folders["gptq-order"]) as checkpoint:
        name = "model.layers.1.mlp.down_proj.weight"
        whole = checkpoint.quantized(name, 0, 256).dequantize()
        np.testing.assert_array_equal(checkpoint.read(name, 5, 9), whole[5:9])
        assert checkpoint.dtype(name) == np.float32


def test_what_has_no_fast_path_is_refused_with_the_way_out(
    folders: dict[str, Path], tmp_path: Path
):
    with pytest.raises(UnsupportedError, match=r"bits, not 6; .*\. Give --requantize to"):
        arkinfer.build(folders["mlx"], output=tmp_path / "m.ark", context=64, backend="onnxruntime")
    assert list(tmp_path.iterdir()) == []


def test_and_is_quantized_again_when_asked(folders: dict[str, Path], tmp_path: Path):
    out = tmp_path / "m.ark"
    report = arkinfer.build(
        folders["mlx"], output=out, context=64, requantize=True, backend="onnxruntime"
    )
    assert report.schemes == {"int4-g32": 10, "int8-g32": 1}
    why = "float minima take 8 ms where integer zero points take 40 µs"
    assert sorted(report.requantized) == [
        "1 matrix was int6-g64-min and rounded once more, to int8-g32: "
        "ONNX Runtime multiplies by 2, 4, 8 bits, not 6",
        f"14 matrices were int4-g64-min and rounded once more, to int4-g32: {why}",
    ]
    with open_artifact(out) as artifact:
        kept = json.loads(artifact.read("report.json"))
    assert kept["requantized"] == list(report.requantized)
    assert error(out, folders["mlx"]) < 0.2
    predicted = arkinfer.plan(folders["mlx"], context=64, requantize=True, backend="onnxruntime")
    assert predicted.requantized == report.requantized
    assert abs(predicted.artifact_bytes - report.size) < 0.02 * report.size


def test_what_is_fast_stays_as_it_is(folders: dict[str, Path], tmp_path: Path):
    out = tmp_path / "m.ark"
    report = arkinfer.build(
        folders["gptq"], output=out, context=64, requantize=True, backend="onnxruntime"
    )
    assert report.requantized == ()
    assert set(report.schemes) == {"int4-g64", "f16"}


def test_what_was_quantized_again_is_computed_as_it_is(folders: dict[str, Path], tmp_path: Path):
    """ONNX Runtime beside the reference, which is held to the torch module above."""
    backends = ("onnxruntime", "reference")
    out = tmp_path / "m.ark"
    arkinfer.build(
        folders["mlx"], output=out, context=64, requantize=True, backend=backends,
        activations="fp32",
    )  # fmt: skip
    answers: list[np.ndarray] = []
    for backend in backends:
        with arkinfer.load(out, backend=backend, threads=1) as engine:
            answers.append(engine.logits(IDS))
    found, expected = answers
    assert np.abs(found - expected).max() < EXACT * np.abs(expected).max()


def test_quant_says_to_what(folders: dict[str, Path], tmp_path: Path):
    out = tmp_path / "m.ark"
    report = arkinfer.build(
        folders["mlx"],
        quant="int8-g64",
        output=out,
        context=64,
        requantize=True,
        backend="onnxruntime",
    )
    assert report.schemes == {"int8-g64": 11}
    with pytest.raises(UsageError, match=r"quantized already, to int4-g64-min, int6-g64-min\."):
        arkinfer.build(
            folders["mlx"], quant="int8-g64", output=out, context=64, backend="onnxruntime"
        )


def test_a_partly_quantized_checkpoint(plain: Path, folders: dict[str, Path], tmp_path: Path):
    """The last layer as it was; q, k and v of it are stacked, those of the first one, too."""
    folder = tmp_path / "partly"
    folder.mkdir()
    for file in folders["gptq"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    original = load_file(plain / "model.safetensors")
    for name in linears(original):
        if ".layers.1." in name:
            module = name.removesuffix("weight")
            tensors = {k: t for k, t in tensors.items() if not k.startswith(module)}
            tensors[name] = original[name]
    save_file(tensors, folder / "model.safetensors")
    report = arkinfer.build(folder, output=tmp_path / "m.ark", context=64, backend="onnxruntime")
    assert report.schemes == {"f16": 6, "int4-g64": 5}
    assert error(report.path, folder) < TOLERANCES["onnxruntime"].quantized


def test_a_shard_that_was_cut_off(folders: dict[str, Path], tmp_path: Path):
    folder = tmp_path / "cut"
    folder.mkdir()
    for file in folders["awq"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is cut off"):
        arkinfer.build(folder, output=tmp_path / "m.ark", backend="onnxruntime")
    assert list(tmp_path.iterdir()) == [folder]


def test_a_method_that_is_not_read(plain: Path, folders: dict[str, Path], tmp_path: Path):
    folder = tmp_path / "other"
    folder.mkdir()
    for file in plain.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((plain / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "aqlm"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match="quantized already, by aqlm"):
        arkinfer.build(folder, output=tmp_path / "m.ark", backend="onnxruntime")


def test_what_was_quantized_again_is_aligned_with_its_checkpoint(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from arkinfer.cli import main

    out = tmp_path / "m.ark"
    arkinfer.build(folders["mlx"], output=out, context=64, requantize=True, backend="onnxruntime")
    assert main(["align", str(folders["mlx"]), str(out)]) == 0
    assert "is aligned with" in capsys.readouterr().out
