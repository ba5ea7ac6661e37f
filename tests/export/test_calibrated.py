"""What a calibrated method made leaves as a build has it: the same numbers, at no more work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arkinfer
from arkinfer.compiler.calibration import run
from arkinfer.compiler.calibration.text import TextOptions
from arkinfer.compiler.export import export
from arkinfer.errors import UsageError
from arkinfer.frontend.checkpoint import open_checkpoint
from arkinfer.packing import parse_scheme
from arkinfer.testing import make_checkpoint, preset

TEXT = TextOptions(samples=2, tokens=48)
RECIPE = """
summary = "a test"
models = ["nobody/nothing"]
target = "cpu"
quant = "{quant}"
embedding = "none"
context = 64
{more}
[calibration]
samples = 2
tokens = 48
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARKINFER_CACHE", str(cache))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = preset("tiny", num_hidden_layers=2)
    return make_checkpoint(config, 3, tmp_path_factory.mktemp("plain") / "tiny")


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every block that is calibrated."""
    computed: list[int] = []
    real = run.quantize_block

    def counted(*args: Any, **options: Any) -> Any:
        computed.append(len(computed))
        return real(*args, **options)

    monkeypatch.setattr(run, "quantize_block", counted)
    return computed


def recipe(folder: Path, quant: str, more: str = "") -> Path:
    file = folder / "own.toml"
    file.write_text(RECIPE.format(quant=quant, more=more))
    return file


def logits(folder: Path | None, artifact: Path, **options: Any) -> np.ndarray:
    arkinfer.build(folder, output=artifact, backend="reference", **options)
    with arkinfer.load(artifact) as engine:
        return engine.logits(list(range(3, 40)))


@pytest.mark.parametrize(
    ("format", "quant"),
    [
        ("gptq", "int4-gptq-g32"),
        ("gptq", "int4-gptq-g32-asym-actorder"),
        ("gptq", "int4-spgptq-g64"),
        ("compressed-tensors", "int4-awq-g32-asym"),
        ("compressed-tensors", "int8-gptq-row"),
    ],
)
def test_what_is_read_back_is_what_a_build_has(
    plain: Path, tmp_path: Path, blocks: list[int], format: str, quant: str
):
    """Norms that smoothing changed included: the models answer alike to the last bit."""
    file = recipe(tmp_path, quant)
    expected = logits(plain, tmp_path / "built.ark", recipe=file)
    assert len(blocks) == 2
    report = export(plain, format, tmp_path / "out", recipe=file)
    assert len(blocks) == 2  # nothing was computed again
    assert report.calibration is not None
    assert report.calibration["method"] == quant.split("-")[1]
    assert report.recipe is not None
    assert report.recipe["name"] == "own"
    found = logits(report.path, tmp_path / "read.ark", context=64)
    np.testing.assert_array_equal(found, expected)


def test_scales_are_float16_where_that_has_them(plain: Path, tmp_path: Path):
    """Those of one matrix are below its range, and stay as they are."""
    from safetensors.torch import load_file, save_file

    for file in plain.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    tiny = "model.layers.1.mlp.down_proj.weight"
    tensors[tiny] *= 1e-5
    save_file(tensors, tmp_path / "model.safetensors")
    report = export(tmp_path, "gptq", tmp_path / "out", quant="int4-gptq-g32", calib=TEXT)
    with open_checkpoint(report.path) as found:
        dtypes = {name: found.quantized(name, 0, 1).scale.dtype for name in found.schemes()}
    assert dtypes.pop(tiny) == np.float32
    assert set(dtypes.values()) == {np.dtype(np.float16)}


def test_gguf_keeps_the_codes_and_the_scales(plain: Path, tmp_path: Path):
    report = export(plain, "gguf", tmp_path / "m.gguf", quant="int4-gptq-g32", calib=TEXT)
    folder = export(plain, "gptq", tmp_path / "out", quant="int4-gptq-g32", calib=TEXT)
    assert (report.schemes, report.notes) == ({"f16": 1, "q4_0": 14}, ())
    with open_checkpoint(report.path) as ours, open_checkpoint(folder.path) as other:
        assert ours.schemes() == other.schemes()
        for name in ours.schemes():
            np.testing.assert_array_equal(ours.read(name), other.read(name), err_msg=name)


def test_matrices_of_other_schemes_and_gates_of_a_recipe(plain: Path, tmp_path: Path):
    more = '[overrides]\n"model.layers.1.*" = "int8-g32"\n[gates]\nmax_kl = 0.1'
    for quant in ("int4-gptq-g32", "int4-g32"):
        text = RECIPE.format(quant=quant, more=more)
        if quant == "int4-g32":
            text = text.partition("[calibration]")[0]
        (tmp_path / "own.toml").write_text(text)
        out = tmp_path / quant
        report = export(plain, "compressed-tensors", out, recipe=tmp_path / "own.toml")
        assert report.schemes == {"int4-g32": 7, "int8-g32": 7}
        assert report.notes[-1].startswith("The recipe's gates were not measured. A build measures")
        with open_checkpoint(out) as found:
            for name, scheme in found.schemes().items():
                assert scheme == parse_scheme("int8-g32" if "layers.1" in name else "int4-g32")


def test_what_a_format_cannot_hold_is_refused_before_the_work(
    plain: Path, tmp_path: Path, blocks: list[int]
):
    for format, quant, why in (
        ("gguf", "int4-gptq-g32-asym", "does not hold int4-g32-asym"),
        ("compressed-tensors", "int4-gptq-g32-actorder", "has no order of inputs"),
    ):
        with pytest.raises(UsageError, match=why):
            export(plain, format, tmp_path / "out", quant=quant, calib=TEXT)
    with pytest.raises(UsageError, match="int4-g32 looks at no text"):
        export(plain, "gptq", tmp_path / "out", quant="int4-g32", calib=TEXT)
    done = export(plain, "gptq", tmp_path / "done", quant="int4-g32")
    with pytest.raises(UsageError, match="is quantized already, to int4-g32"):
        export(done.path, "gptq", tmp_path / "out", quant="int4-gptq-g32", requantize=True)
    with pytest.raises(UsageError, match=r"demo\.ark is an artifact, which cannot be exported"):
        export("demo.ark", "gptq", tmp_path / "out")
    assert blocks == []
    assert not (tmp_path / "out").exists()
