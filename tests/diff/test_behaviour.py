"""Answers of two models on the same tokens: the same, different, or not to be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arkinfer.artifact import open_artifact
from arkinfer.diff.behaviour import ANSWER, Behaviour, compare_behaviour, divergences
from arkinfer.diff.wording import answers
from tests.runtime.artifacts import write_artifact, write_plugin


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(write_plugin(tmp_path / "site"))


def compared(a: Path, b: Path, **options: Any) -> Behaviour:
    with open_artifact(a) as first, open_artifact(b) as second:
        return compare_behaviour(first, second, **options)


def test_the_same_model_in_other_chunks(tmp_path: Path):
    """Rounding aside, nothing differs."""
    found = compared(
        write_artifact(tmp_path / "a.ark"), write_artifact(tmp_path / "b.ark", chunk=5)
    )
    assert (found.why, found.backends) == ("", ("bigram", "bigram"))
    assert found.agreement == 1.0
    assert found.mean_kl < 1e-9
    assert [prompt.parts_at for prompt in found.prompts] == [None, None]
    assert answers(found)[1].endswith("greedy answers are the same.")


def test_another_model(tmp_path: Path):
    found = compared(write_artifact(tmp_path / "a.ark"), write_artifact(tmp_path / "b.ark", seed=1))
    assert found.agreement < 0.2
    assert found.mean_kl > 1
    for prompt in found.prompts:
        assert len(prompt.kl) == prompt.tokens > 10
        assert all(value >= 0 for value in prompt.kl)
        assert prompt.parts_at is not None
        assert prompt.parts_at < ANSWER
        assert prompt.answers[0] != prompt.answers[1]
    assert "the best next token agrees after " in answers(found)[0]
    assert "greedy answers part at token 1: " in answers(found)[1]


def test_a_context_that_is_hardly_long_enough(tmp_path: Path):
    found = compared(
        write_artifact(tmp_path / "a.ark", context=40), write_artifact(tmp_path / "b.ark")
    )
    assert [prompt.tokens for prompt in found.prompts] == [8, 8]
    assert found.agreement == 1.0


def test_golden_prompts_are_what_is_compared(tmp_path: Path):
    """Those of the first file; a long one is cut."""
    row = {"position": 0, "logsumexp": 0.0, "spread": 1.0, "ids": [1], "logits": [0.0]}
    golden = {
        "format": 1,
        "prompts": {"short": [1, 5, 9], "long": [7] * 240},
        "answers": [{"weights": "reference", "prompt": "short", "rows": [row]}],
        "values": {},
    }
    entries = {"golden.json": json.dumps(golden).encode()}
    found = compared(
        write_artifact(tmp_path / "a.ark", entries=entries), write_artifact(tmp_path / "b.ark")
    )
    assert [(p.name, p.tokens) for p in found.prompts] == [("short", 3), ("long", 256 - ANSWER)]
    entries = {"golden.json": b"{}"}
    damaged = write_artifact(tmp_path / "c.ark", entries=entries)
    assert "golden vectors of" in compared(damaged, tmp_path / "b.ark").why


def test_other_tokenizers(tmp_path: Path):
    other = write_artifact(tmp_path / "b.ark", family="metaspace")
    found = compared(write_artifact(tmp_path / "a.ark"), other)
    assert (found.prompts, found.why[:24]) == ((), "their tokenizers differ,")
    assert answers(found) == [
        "Not compared: their tokenizers differ, so that no tokens mean the same."
    ]
    none = [write_artifact(tmp_path / name, family=None) for name in ("c.ark", "d.ark")]
    assert compared(*none).why == "they have no tokenizer"


def test_one_that_does_not_run_here(tmp_path: Path):
    other = write_artifact(tmp_path / "b.ark", backends=("nowhere",))
    found = compared(write_artifact(tmp_path / "a.ark"), other)
    assert found.prompts == ()
    assert found.why.startswith('the second one does not run here: No executor for the backend "no')
    asked = compared(other, other, backend="bigram")
    assert asked.why.startswith("the first one does not run here: The artifact has no section")


def test_progress(tmp_path: Path):
    seen: list[tuple[int, int]] = []
    paths = write_artifact(tmp_path / "a.ark"), write_artifact(tmp_path / "b.ark")
    compared(*paths, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_divergence_is_the_formula():
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((200, 7)).astype(np.float32) for _ in range(2))
    p, q = (np.exp(x.astype(np.float64)) for x in (a, b))
    p, q = (x / x.sum(axis=1, keepdims=True) for x in (p, q))
    assert divergences(a, b) == pytest.approx((p * np.log(p / q)).sum(axis=1))
    assert divergences(a, a + 5) == pytest.approx(np.zeros(200), abs=1e-6)
    b[3, 2] = np.nan
    assert divergences(a, b)[3] == np.inf
