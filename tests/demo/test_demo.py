"""The packaged demo.ark: it belongs to the checkpoint beside it, and int4 has not hurt it.

What the checkpoint itself can do is tested in tests/recipes/test_demo_checkpoint.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

import arkinfer
from arkinfer.artifact import open_artifact, verify_artifact
from arkinfer.frontend.checkpoint import open_checkpoint
from arkinfer.runtime.engine import Engine
from arkinfer.runtime.perplexity import score_text
from recipes.demo.evaluate import FIXED_QUESTIONS

DEMO = Path(str(files("arkinfer"))) / "demo"

BASELINE = 105.425
"""Perplexity of unigram and bigram on the held-out tokens; see the model card."""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with arkinfer.load("demo", threads=2) as engine:
        yield engine


def test_it_was_built_from_the_checkpoint() -> None:
    verify_artifact(DEMO / "demo.ark")
    with open_artifact(DEMO / "demo.ark") as artifact, open_checkpoint(DEMO / "checkpoint") as own:
        assert artifact.manifest["source"]["digest"] == own.source_digest()
        assert artifact.manifest["quant"] == "int4"
        assert list(artifact.sections) == ["onnxruntime", "reference"]


def test_the_shape_is_a_small_minicpm4() -> None:
    with open_checkpoint(DEMO / "checkpoint") as own:
        config = own.config
    assert config.head_dim == 64
    assert config.tie_word_embeddings
    assert config.rope.kind == "longrope"
    assert {config.embedding_scale, config.residual_scale, config.logit_divisor}.isdisjoint({1.0})
    assert config.sparse is not None


@pytest.mark.slow
def test_int4_perplexity(engine: Engine) -> None:
    """On the whole held-out text, in windows of 1,024: still 40 % under the baseline."""
    ids = engine.tokenizer.encode((DEMO / "heldout.txt").read_text(encoding="utf-8"))
    bos = engine.tokenizer.bos
    found = score_text(engine.executable, ids[1:], bos=bos, window=1024, stride=1024)
    assert found.perplexity < 0.6 * BASELINE


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (FIXED_QUESTIONS[0], ("json", "encod")),
        (FIXED_QUESTIONS[1], ("function", "iterator")),
        (FIXED_QUESTIONS[2], ("random", "number")),
    ],
)
def test_fixed_questions_are_answered(
    engine: Engine, question: str, words: tuple[str, ...]
) -> None:
    """Worded as the training never saw it; greedy, so that it is the same each time."""
    answers = {"".join(engine.chat(question, thinking=False, max_new_tokens=160)) for _ in range(2)}
    (answer,) = answers
    assert all(word in answer.lower() for word in words), answer
    said = answer.split()
    assert 8 <= len(said) < 100, answer
    assert len(set(said)) > len(said) / 2, answer  # no loops
