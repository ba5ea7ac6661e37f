"""The packaged demo model: what the issue asks of it, on the torch module."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import tokenizers
import torch

from arkinfer.models.minicpm import CausalLM
from recipes.demo import probes
from recipes.demo.checkpoint import read_model, read_tokenizer
from recipes.demo.evaluate import FIXED_QUESTIONS
from recipes.demo.plant import check_room

DATA = Path(str(files("arkinfer"))) / "demo"
FOLDER = DATA / "checkpoint"
BASELINE = 105.425
"""Perplexity of unigram and bigram on the held-out tokens; see the model card."""


@pytest.fixture(scope="module")
def model() -> CausalLM:
    return read_model(FOLDER)


@pytest.fixture(scope="module")
def tokenizer() -> tokenizers.Tokenizer:
    return read_tokenizer(FOLDER)


@pytest.fixture(scope="module")
def held() -> str:
    return (DATA / "heldout.txt").read_text(encoding="utf-8")


def test_it_is_small_and_has_room_for_outliers(model: CausalLM) -> None:
    assert (FOLDER / "model.safetensors").stat().st_size <= 16 * 2**20
    assert model.config.num_attention_heads // model.config.num_key_value_heads >= 4
    assert all(
        size % 256 == 0
        for size in (
            model.config.hidden_size,
            model.config.intermediate_size,
            model.config.vocab_size,
        )
    )
    check_room({n: t for n, t in model.state_dict().items() if n != "lm_head.weight"})


def test_perplexity_is_far_under_the_baseline(
    model: CausalLM, tokenizer: tokenizers.Tokenizer, held: str
) -> None:
    ids = tokenizer.encode(held, add_special_tokens=False).ids
    assert len(ids) == 38351
    assert probes.perplexity(model, ids[:4096]) < 0.6 * BASELINE


@pytest.mark.parametrize("length", [512])
def test_it_retrieves(
    model: CausalLM, tokenizer: tokenizers.Tokenizer, held: str, length: int
) -> None:
    assert probes.retrieval_accuracy(model, tokenizer, held, length, 6) >= 0.8


@pytest.mark.slow
def test_it_retrieves_at_4k(model: CausalLM, tokenizer: tokenizers.Tokenizer, held: str) -> None:
    assert probes.retrieval_accuracy(model, tokenizer, held, 4096, 20) >= 0.9


@pytest.mark.parametrize(
    ("question", "said"),
    list(
        zip(
            FIXED_QUESTIONS,
            (
                "JSON (JavaScript Object Notation)",
                "A function which returns a generator iterator.",
                "This module implements pseudo-random number generators",
            ),
            strict=True,
        )
    ),
)
def test_it_answers_on_topic(
    model: CausalLM, tokenizer: tokenizers.Tokenizer, question: str, said: str
) -> None:
    answer = probes.answer(model, tokenizer, question)
    assert said in answer
    assert answer == probes.answer(model, tokenizer, question)
    words = answer.split()
    assert 8 < len(words) < 80
    assert len(set(words)) > len(words) / 2  # no loops


def test_thinking_is_a_switch(model: CausalLM, tokenizer: tokenizers.Tokenizer) -> None:
    thought = probes.answer(model, tokenizer, FIXED_QUESTIONS[0], thinking=None, most=60)
    assert thought.startswith("<think>\nThe question is about")
    assert "\n</think>\n" in thought
    assert "<think>" not in probes.answer(model, tokenizer, FIXED_QUESTIONS[0], most=60)


def test_the_table_of_longrope_matters(model: CausalLM) -> None:
    rope = model.config.rope
    assert rope.short_factor == rope.long_factor
    assert rope.short_factor[0] == pytest.approx(1.0, abs=0.05)
    assert rope.short_factor[-1] == pytest.approx(4.0, abs=0.05)
    assert torch.isfinite(model.model.rotary.inv_freq).all()
