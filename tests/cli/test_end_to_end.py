"""The commands in a row on a real build: a random checkpoint, two backends, one file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import arkinfer

Ark = Callable[..., Any]
BACKENDS = ("reference", "onnxruntime")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny int4 model with a section for each backend, made by `arkinfer build`."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    from arkinfer.cli import main
    from arkinfer.testing import make_checkpoint, preset

    folder = tmp_path_factory.mktemp("tiny")
    make_checkpoint(preset("tiny"), seed=0, path=folder / "tiny")
    sections = [word for name in BACKENDS for word in ("--backend", name)]
    command = ["build", str(folder / "tiny"), "-o", str(folder / "m.ark"), *sections]
    assert main([*command, "--context", "256", "--chunk", "16"]) == 0
    return folder / "m.ark"


def test_it_is_sound_and_says_what_it_is(ark: Ark, artifact: Path):
    assert ark("verify", artifact).code == 0
    facts = json.loads(ark("inspect", artifact, "--json").out)
    assert [section["backend"] for section in facts["sections"]] == list(BACKENDS)
    assert facts["tokens"]["stop"]
    assert facts["context"] == 256


def test_backends_say_the_same(ark: Ark, artifact: Path, tmp_path: Path):
    """Random weights are a hard case: their logits are nearly flat."""
    text = tmp_path / "text.txt"
    text.write_text("def add(a, b):\n    return a + b\n\nWhat is a list? " * 6)
    scores = {}
    for backend in BACKENDS:
        command = ["eval", artifact, "--text", text, "--window", 64, "--backend", backend]
        (facts,) = json.loads(ark(*command, "--json").out)["models"]
        assert facts["backend"] == backend
        scores[backend] = facts["nll"] / facts["tokens"]
    assert scores["onnxruntime"] == pytest.approx(scores["reference"], rel=2e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_answers(ark: Ark, artifact: Path, backend: str):
    command = ["run", artifact, "What is a list?", "--backend", backend, "--max-new-tokens", 6]
    first = json.loads(ark(*command, "--json", "--seed", 3).out)
    again = json.loads(ark(*command, "--json", "--seed", 3).out)
    assert first["text"] == again["text"]
    assert first["backend"] == backend
    assert 1 <= first["tokens"] <= 6
    assert first["sampling"]["temperature"] == 0.8  # from the checkpoint's generation_config.json
    plain = ark(*command, "--seed", 3)
    assert plain.out.rstrip("\n") == first["text"].rstrip("\n")


@pytest.mark.parametrize("backend", BACKENDS)
def test_ctrl_c_inside_a_prompt_leaves_the_engine_usable(artifact: Path, backend: str):
    def interrupt(done: int, total: int) -> None:
        if done == 32:
            raise KeyboardInterrupt

    with arkinfer.load(artifact, backend=backend, threads=2) as engine:
        ids = [1, *range(10, 90)]
        expected = engine.generate(ids, 5)
        expected.read()
        engine.logits([5])
        with pytest.raises(KeyboardInterrupt):
            engine.generate(ids, 5, progress=interrupt).read()
        again = engine.generate(ids, 5)
        again.read()
        assert again.timings.reused_tokens == 32
        assert again.tokens == expected.tokens


def test_it_is_measured(ark: Ark, artifact: Path):
    command = ["bench", artifact, "--backend", "onnxruntime", "--threads", 2]
    facts = json.loads(ark(*command, "--lengths", 64, "--depths", 32, "--json").out)
    assert facts["section_bytes"] > 100_000
    assert all(row["tokens_per_second"]["min"] > 0 for row in facts["results"])


def test_a_prompt_longer_than_the_context(ark: Ark, artifact: Path):
    for backend in BACKENDS:
        result = ark("run", artifact, "word " * 400, "--backend", backend)
        assert result.code == 2
        assert result.err.startswith("error: The prompt has ")
        assert "but the context holds 256." in result.err
