"""Builds whose linears a calibrated method quantizes."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import arkinfer
from arkinfer.align.run import align
from arkinfer.artifact import open_artifact
from arkinfer.compiler.build import BuildReport, build
from arkinfer.compiler.calibration import run
from arkinfer.compiler.calibration.text import TextOptions
from arkinfer.compiler.plan import plan
from arkinfer.compiler.progress import Progress
from arkinfer.errors import UsageError
from arkinfer.frontend.checkpoint import open_checkpoint
from arkinfer.models.minicpm import causal_attend
from arkinfer.testing.torch_model import torch_model
from arkinfer.verify.checks import checks
from tests.compiler.killing import Builder, Kill

SHORT = TextOptions(samples=6, tokens=64)
STEM = "model.layers.0"


def built(checkpoint: Path, path: Path, quant: str, **options: Any) -> BuildReport:
    return build(
        checkpoint, quant=quant, output=path, backend="onnxruntime", **{"calib": SHORT, **options}
    )


@pytest.mark.parametrize("quant", ["int4-spgptq-g64", "int4-awq-g32-asym", "int8-gptq-row"])
def test_it_runs_and_says_what_it_was_made_of(traced: Path, tmp_path: Path, quant: str) -> None:
    """Its answers are those of the module with what the artifact's weights stand for."""
    report = built(traced, tmp_path / "m.ark", quant)
    facts = report.calibration
    assert facts is not None
    assert facts["method"] == quant.split("-")[1]
    assert (facts["text"], facts["samples"], facts["tokens"]) == ("the built-in text", 6, 64)
    with open_artifact(tmp_path / "m.ark") as artifact:
        assert artifact.manifest["calibration"] == facts
        assert artifact.manifest["quant"] == quant
        assert json.loads(artifact.read("report.json"))["calibration"] == facts
        text = artifact.read("ir.txt").decode()
    assert f"stored(@{STEM}.mlp.down_proj.weight)" in text
    assert "rtn(@model.embed_tokens.weight)" in text
    check(tmp_path / "m.ark")


def test_a_repeated_build_takes_it_from_the_cache(
    traced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built(traced, tmp_path / "a.ark", "int4-gptq-g64")
    monkeypatch.setattr(run, "quantize_block", None)
    built(traced, tmp_path / "b.ark", "int4-gptq-g64")
    assert (tmp_path / "a.ark").read_bytes() == (tmp_path / "b.ark").read_bytes()


def test_the_order_of_importance_runs(traced: Path, tmp_path: Path) -> None:
    report = built(traced, tmp_path / "m.ark", "int4-gptq-g64-actorder")
    assert report.schemes["int4-g64-actorder"] > 0
    check(tmp_path / "m.ark")


def test_overrides_are_calibrated_too(traced: Path, tmp_path: Path) -> None:
    own = {"model.layers.*.mlp.down_proj": "int8-g128", "model.embed_tokens": "int4-g64"}
    report = built(traced, tmp_path / "m.ark", "int4-gptq-g64", overrides=own)
    with open_artifact(tmp_path / "m.ark") as artifact:
        text = artifact.read("ir.txt").decode()
    assert f'stored(@{STEM}.mlp.down_proj.weight) {{scheme = "int8-g128"}}' in text
    assert 'rtn(@model.embed_tokens.weight) {scheme = "int4-g64"}' in text
    assert report.schemes["int8-g128"] == 2


def test_the_int8_cache_is_calibrated_with_the_quantized_weights(
    traced: Path, tmp_path: Path
) -> None:
    built(traced, tmp_path / "m.ark", "int4-awq-g64", kv="int8")
    check(tmp_path / "m.ark")


def test_nothing_is_computed_for_a_model_that_cannot_be_built(
    traced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "quantize_block", None)
    for quant, error, what in (
        ("int4-gptq-g96", UsageError, 'There is no quantization "int4-gptq-g96"'),
        ("int4-gptq-g64", UsageError, "too short to calibrate with"),
    ):
        file = tmp_path / "tiny.txt"
        file.write_text("no")
        with pytest.raises(error, match=what):
            built(traced, tmp_path / "m.ark", quant, calib=TextOptions(file))
    assert not (tmp_path / "m.ark").exists()
    with pytest.raises(UsageError, match="int4-g64 looks at no text"):
        built(traced, tmp_path / "m.ark", "int4-g64")


def test_a_long_calibration_is_announced(
    traced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arkinfer.compiler.calibration.estimate.WORTH_SAYING", 0.0)
    moments: list[Progress] = []
    report = built(traced, tmp_path / "m.ark", "int4-spgptq-g64", on_progress=moments.append)
    (note,) = report.notes
    assert note.startswith("Calibrating by spgptq takes about ")
    assert "with 6 sequences of 64 tokens of the built-in text" in note
    assert "int4-g64 needs no data and takes about" in note
    stages = [moment.stage for moment in moments]
    noted = next(i for i, moment in enumerate(moments) if moment.note)
    assert stages[noted] == "calibrating by spgptq"
    parts = [m.done for m in moments if m.stage == "calibrating by spgptq" and m.total]
    assert parts == sorted(parts)
    assert len(parts) >= 12


def test_a_plan_knows_of_it(traced: Path) -> None:
    plain, calibrated = (
        plan(traced, quant="int4-g64", backend="onnxruntime"),
        plan(traced, quant="int4-gptq-g64", backend="onnxruntime"),
    )
    assert abs(calibrated.artifact_bytes / plain.artifact_bytes - 1) < 0.01
    assert calibrated.build_seconds > plain.build_seconds
    assert calibrated.build_bytes >= plain.build_bytes


def test_killed_after_a_block_it_continues(traced: Path, tmp_path: Path, own_cache: Path) -> None:
    kill = Kill(
        "block", "arkinfer.compiler.calibration.run:put_block", call=2,
        options={"quant": "int4-gptq-g64"},
    )  # fmt: skip
    temporary = tmp_path / "temporary"
    with Builder(traced, temporary) as builder:
        killed = builder.build(tmp_path / "m.ark", own_cache, kill)
        assert killed.status == -signal.SIGKILL
        assert not (tmp_path / "m.ark").exists()
        assert not list(temporary.iterdir())
        assert len(list((own_cache / "blocks").glob("*/*"))) == 1
        again = builder.build(
            tmp_path / "m.ark", own_cache, Kill("none", options={"quant": "int4-gptq-g64"})
        )
    assert again.status == 0, again.error
    assert "was killed while calibrating by gptq; what it had finished" in again.notes[0]
    check(tmp_path / "m.ark")


@pytest.mark.parametrize("quant", ["int4-gptq-g32", "int4-awq-g32"])
def test_logits_stay_near_those_of_the_model(traced: Path, tmp_path: Path, quant: str) -> None:
    """AWQ's changed norms included: without them, the scaled matrices would be nonsense."""
    built(traced, tmp_path / "m.ark", quant)
    ids = np.random.default_rng(3).integers(3, 500, 24)
    with open_checkpoint(traced) as checkpoint:
        model = torch_model(checkpoint.config, checkpoint)
    with torch.no_grad():
        states = model.model(torch.from_numpy(ids), torch.arange(len(ids)), causal_attend)
        wanted = model.head(states).numpy()
    with arkinfer.load(tmp_path / "m.ark") as engine:
        found = engine.logits(ids.tolist())
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.97


def check(path: Path) -> None:
    """`arkinfer verify`: whole, and it answers here as the quantized model did."""
    found = {each.name: each.ok for each in checks(path)}
    assert found["reference"]
    assert found["source"]
    assert False not in found.values()


@pytest.mark.parametrize("quant", ["int4-spgptq-g64", "int4-gptq-g64-actorder"])
def test_it_is_aligned_with_the_text_that_it_looked_at(
    traced: Path, tmp_path: Path, quant: str
) -> None:
    """Against what is calibrated again: every stage agrees, and another text is told from it."""
    text, other = tmp_path / "notes.txt", tmp_path / "other.txt"
    text.write_text("A line of words that is about as good as any other line.\n" * 100)
    other.write_text("Something else entirely, on and on without an end.\n" * 100)
    built(traced, tmp_path / "m.ark", quant, calib=TextOptions(text, 4, 64))
    with open_artifact(tmp_path / "m.ark") as artifact, open_checkpoint(traced) as checkpoint:
        with pytest.raises(UsageError, match=r"was calibrated on notes\.txt.* --calib notes\.txt"):
            align(artifact, checkpoint)
        with pytest.raises(UsageError, match="their hashes differ"):
            align(artifact, checkpoint, calib=other)
        report = align(artifact, checkpoint, calib=text, tokens=8)
    assert report.aligned, report.to_json()
