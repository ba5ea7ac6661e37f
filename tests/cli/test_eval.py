"""`arkinfer eval`: perplexity against a pass over the whole text, and the stated rule."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arkinfer
from arkinfer.cli.eval import evaluate
from tests.runtime.artifacts import write_artifact
from tests.runtime.bigram import BigramExecutor

Ark = Callable[..., Any]
TEXT = "What is a list? A list is a mutable sequence.\n\nünïcode, too: 你好 🙂\n"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def nll(model: Path, text: str) -> tuple[float, int]:
    """-ln p of the text's tokens after a BOS, from the engine's own logits."""
    with arkinfer.load(model, executor=BigramExecutor()) as engine:
        ids = engine.tokenizer.encode(text)
        logits = engine.logits(ids).astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -sum(logs[i - 1, ids[i]] for i in range(1, len(ids))), len(ids) - 1


def test_one_window_is_the_engines_logits(ark: Ark, model: Path, text: Path):
    result = ark("eval", model, "--text", text, "--json")
    assert (result.code, result.err) == (0, "")
    (facts,) = json.loads(result.out)["models"]
    assert list(facts) == [
        "path", "backend", "perplexity", "bits_per_byte", "nll", "tokens", "bytes", "window",
        "stride", "bos", "rule", "texts",
    ]  # fmt: skip
    expected, count = nll(model, TEXT)
    assert math.isclose(facts["nll"], expected, rel_tol=1e-5)
    assert facts["tokens"] == count
    assert facts["bytes"] == len(TEXT.encode())
    assert math.isclose(facts["perplexity"], math.exp(expected / count), rel_tol=1e-4)
    bits = expected / math.log(2) / len(TEXT.encode())
    assert math.isclose(facts["bits_per_byte"], bits, rel_tol=1e-4)
    assert (facts["window"], facts["stride"], facts["bos"]) == (255, 127, 1)
    assert facts["texts"][0]["path"] == str(text)


def test_the_rule_is_stated(ark: Ark, model: Path, text: Path):
    out = ark("eval", model, "--text", text, "--window", 16, "--stride", 4).out
    lines = out.splitlines()
    assert lines[0] == "window  16 tokens, stride 4"
    assert lines[1] == (
        "rule    each text is one sequence, read as it is (line ends kept, special tokens "
        "recognised); each window begins with an empty cache and the BOS; each token is scored "
        "once, in the first window that holds it"
    )
    assert lines[3].split() == ["model", "text", "tokens", "perplexity", "bits", "per", "byte"]
    assert lines[4].split()[:2] == [str(model), str(text)]


def test_several_models_and_texts(ark: Ark, model: Path, text: Path, tmp_path: Path, site: Path):
    other = write_artifact(tmp_path / "other.ark", seed=9)
    second = tmp_path / "second.txt"
    second.write_text("Another text.")
    command = ["eval", model, other, "--text", text, "--text", second]
    models = json.loads(ark(*command, "--json").out)["models"]
    assert [m["path"] for m in models] == [str(model), str(other)]
    for facts in models:
        assert facts["nll"] == pytest.approx(sum(row["nll"] for row in facts["texts"]))
        assert facts["tokens"] == sum(row["tokens"] for row in facts["texts"])
    assert models[0]["perplexity"] != models[1]["perplexity"]
    rows = [line.split()[:2] for line in ark(*command).out.splitlines()[4:]]
    assert rows == [
        [str(m), name] for m in (model, other) for name in (str(text), str(second), "all")
    ]


def test_a_limit_scores_the_first_tokens(ark: Ark, model: Path, text: Path):
    (facts,) = json.loads(ark("eval", model, "--text", text, "--limit", 9, "--json").out)["models"]
    assert facts["tokens"] == 9
    assert facts["bytes"] < len(TEXT.encode())


def test_a_model_without_bos(tmp_path: Path, site: Path):
    path = write_artifact(tmp_path / "n.ark", tokens={"bos": None, "stop": []})
    with arkinfer.load(path, executor=BigramExecutor()) as engine:
        facts = evaluate(engine, [TEXT])
        assert facts["tokens"] == len(engine.tokenizer.encode(TEXT)) - 1
    assert "empty cache; there is no BOS;" in facts["rule"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--window", "300"], "A window of 300 tokens does not fit. The context holds 256 tokens, "
         "one of them the BOS. Give a window of at most 255 tokens."),
        (["--window", "8", "--stride", "9"], "A window of 8 tokens cannot move by 9. Give a window "
         "of at least 1 token and a stride from 1 to the window."),
        (["--limit", "1"], "A limit of 1 tokens is too small. Give at least 2."),
    ],
)  # fmt: skip
def test_requests_that_cannot_be_met(
    ark: Ark, model: Path, text: Path, options: list[str], sentence: str
):
    result = ark("eval", model, "--text", text, *options)
    assert (result.code, result.out, result.err) == (2, "", f"error: {sentence}\n")


def test_texts_that_cannot_be_read(ark: Ark, model: Path, tmp_path: Path):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    for name, sentence in {
        "none": f'The text "{tmp_path}/none" cannot be read. No such file or directory. Check the '
        "path.",
        "empty": f'The text "{tmp_path}/empty" is empty. Give a longer text.',
        "latin": f"\"{tmp_path}/latin\" is not UTF-8 text. 'utf-8' codec can't decode byte 0xe9 "
        "in position 3: unexpected end of data. Convert it to UTF-8.",
    }.items():
        result = ark("eval", model, "--text", tmp_path / name)
        assert (result.code, result.out, result.err) == (2, "", f"error: {sentence}\n")


def test_a_text_is_needed(ark: Ark, model: Path):
    result = ark("eval", model)
    assert (result.code, result.err) == (
        2, "error: Missing option '--text'. See \"arkinfer eval --help\".\n",
    )  # fmt: skip
