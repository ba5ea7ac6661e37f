"""Retrieval tasks, prompt format and batches."""

from __future__ import annotations

import jinja2
import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from recipes.demo import mixture, probes
from recipes.demo.chatformat import BOS, IM_END, NO_THOUGHT, TEMPLATE, Turn, encode_chat, prompt
from recipes.demo.retrieval import hide, pairs, retrieval

FILLER = "\n".join(f"line {n} of the text" for n in range(200))


@given(count=st.integers(1, 60), seed=st.integers(0, 2**32 - 1))
def test_every_answer_stands_once_in_the_passage(count: int, seed: int) -> None:
    made = retrieval(FILLER, count, 3, np.random.default_rng(seed))
    lines = made.passage.split("\n")
    assert len(made.questions) == min(3, count)
    assert len({answer for _, answer in made.questions}) == len(made.questions)
    for question, answer in made.questions:
        assert lines.count(answer) == 1
        assert answer.split()[3] in question
    assert made == retrieval(FILLER, count, 3, np.random.default_rng(seed))


@given(count=st.integers(1, 200), seed=st.integers(0, 2**32 - 1))
def test_keys_are_distinct_and_values_have_four_digits(count: int, seed: int) -> None:
    made = pairs(count, np.random.default_rng(seed))
    assert len({key for key, _ in made}) == count
    assert all(len(value) == 4 and value.isdigit() for _, value in made)


def test_hiding_keeps_all_lines_in_order() -> None:
    hidden = hide(FILLER, ["one", "two", "three"], np.random.default_rng(0)).split("\n")
    assert [line for line in hidden if " " not in line] == ["one", "two", "three"]
    assert [line for line in hidden if " " in line] == FILLER.split("\n")


@pytest.mark.parametrize("thinking", [None, True, False])
def test_the_template_renders_what_training_saw(thinking: bool | None) -> None:
    variables = {} if thinking is None else {"enable_thinking": thinking}
    rendered = (
        jinja2.Environment()
        .from_string(TEMPLATE)
        .render(
            messages=[{"role": "system", "content": "S"}, {"role": "user", "content": "U"}],
            add_generation_prompt=True,
            **variables,
        )
    )
    assert rendered == prompt([("system", "S"), ("user", "U")], thinking)
    assert rendered.endswith(NO_THOUGHT) == (thinking is False)


def test_only_what_the_assistant_writes_is_learnt(tokenizer: tokenizers.Tokenizer) -> None:
    turns = [Turn("user", "heap?", 0.0), Turn("assistant", "A queue.", 1.0, NO_THOUGHT)]
    ids, weights = encode_chat(tokenizer, turns)
    assert ids[0] == BOS
    assert ids.count(BOS) == 1
    learnt = [i for i, weight in zip(ids, weights, strict=True) if weight]
    assert tokenizer.decode(learnt[:-1]) == "A queue."
    assert learnt[-1] == IM_END
    given_ids = tokenizer.encode(prompt([("user", "heap?")]), add_special_tokens=False).ids
    assert ids[1 : 1 + len(given_ids)] == given_ids


def test_digits_stand_alone(tokenizer: tokenizers.Tokenizer) -> None:
    tokens = tokenizer.encode("is 4821.", add_special_tokens=False).tokens
    assert [t for t in tokens if t.isdigit()] == ["4", "8", "2", "1"]


@given(text=st.text())
def test_decoding_gives_the_text_back(tokenizer: tokenizers.Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert tokenizer.encode(text).ids == [BOS, *ids]


def test_a_batch_follows_from_seed_step_and_length(
    documents: list[dict[str, str]], tokenizer: tokenizers.Tokenizer
) -> None:
    longer = [{**d, "text": d["text"] * 60} for d in documents]
    first, second = (mixture.Mixture(longer, tokenizer, seed=1) for _ in range(2))
    for step, progress in ((0, 0.0), (9, 0.9)):
        a, b = (m.batch(step, progress, 6, 512) for m in (first, second))
        assert np.array_equal(a.inputs, b.inputs)
        assert np.array_equal(a.weights, b.weights)
        assert a.inputs.shape == a.weights.shape == (6, 512)
        assert np.array_equal(a.inputs[:, 1:], a.targets[:, :-1])
    other = mixture.Mixture(longer, tokenizer, seed=2).batch(0, 0.0, 6, 512)
    assert not np.array_equal(other.inputs, first.batch(0, 0.0, 6, 512).inputs)


@pytest.mark.parametrize("length", [256, 1024])
def test_a_probe_fits_its_length(tokenizer: tokenizers.Tokenizer, length: int) -> None:
    ids, expected = probes.retrieval_case(tokenizer, FILLER * 5, length, seed=3)
    assert 0.5 * length < len(ids) <= length - 24
    assert tokenizer.decode(expected) in tokenizer.decode(ids)
