"""Whole small models from real .ark files against the IR's interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

Array = np.ndarray[Any, Any]


def near(got: Array, expected: Array, model: Any) -> bool:
    return bool(np.abs(got - expected).max() <= model.allowed * np.abs(expected).max())


def test_one_call_is_token_by_token_is_any_chunking(model: Any, opened: Any) -> None:
    executable = opened(model.path)
    tokens = model.tokens(24)
    expected = model.expected(tokens)
    whole = executable.new_state(24).step(tokens, rows="all").logits
    assert near(whole, expected, model)
    for chunks in ([1] * 24, [5, 9, 10], [23, 1], [2, 1, 21]):
        state = executable.new_state(30)
        parts = np.split(tokens, np.cumsum(chunks)[:-1])
        got = np.concatenate([state.step(part, rows="all").logits for part in parts])
        assert near(got, expected, model), chunks
        assert state.length == 24


def test_many_chunks_fill_the_whole_context(model: Any, opened: Any) -> None:
    tokens = model.tokens(80, seed=1)
    state = opened(model.path).new_state(80)
    got = [state.step(tokens[a : a + 24], rows="all").logits for a in range(0, 80, 24)]
    assert near(np.concatenate(got), model.expected(tokens), model)


def test_rows(model: Any, opened: Any) -> None:
    executable = opened(model.path)
    tokens = model.tokens(9)
    every = executable.new_state(9).step(tokens, rows="all").logits
    last = executable.new_state(9).step(tokens).logits
    state = executable.new_state(12)
    none = state.step(tokens, rows="none").logits
    assert none.shape == (0, executable.vocab_size)
    assert last.shape == (1, executable.vocab_size)
    assert near(last[0], every[8], model)
    after = state.step(tokens[:3]).logits
    assert near(after[0], model.expected(np.concatenate([tokens, tokens[:3]]))[-1], model)


def test_truncate_goes_back(model: Any, opened: Any) -> None:
    executable = opened(model.path)
    tokens = model.tokens(12)
    state = executable.new_state(20)
    state.step(tokens)
    state.step(model.tokens(8, seed=5))
    state.truncate(7)
    assert state.length == 7
    again = state.step(tokens[7:], rows="all").logits
    assert near(again, model.expected(tokens)[7:], model)
    state.truncate(0)
    assert near(state.step(tokens, rows="all").logits, model.expected(tokens), model)


def test_states_do_not_disturb_each_other(model: Any, opened: Any) -> None:
    executable = opened(model.path)
    texts = [model.tokens(10, seed=s) for s in range(3)]
    states = [executable.new_state(10 + s) for s in range(3)]
    logits: list[list[Array]] = [[], [], []]
    for at in range(10):
        for state, text, seen in zip(states, texts, logits, strict=True):
            seen.append(state.step(text[at : at + 1]).logits)
    for text, seen in zip(texts, logits, strict=True):
        assert near(np.concatenate(seen), model.expected(text), model)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_no_bit(model: Any, opened: Any, threads: int) -> None:
    tokens = model.tokens(24)
    two = opened(model.path).new_state(24).step(tokens, rows="all").logits
    executable = opened(model.path, threads=threads)
    assert executable.threads == threads
    other = executable.new_state(24).step(tokens, rows="all").logits
    np.testing.assert_array_equal(two.view(np.uint32), other.view(np.uint32))


def test_earlier_logits_are_not_overwritten(small: Any, opened: Any) -> None:
    state = opened(small.path).new_state(10)
    first = state.step(small.tokens(4)).logits
    kept = first.copy()
    state.step(small.tokens(4, seed=3))
    np.testing.assert_array_equal(first, kept)


def test_int8_caches(int8_caches: Any, opened: Any) -> None:
    """Codes may differ by one where a sum in another order falls on the other side of a half."""
    tokens = int8_caches.tokens(40)
    state = opened(int8_caches.path).new_state(40)
    got = np.concatenate(
        [state.step(tokens[a : a + 9], rows="all").logits for a in range(0, 40, 9)]
    )
    expected = int8_caches.expected(tokens)
    assert np.abs(got - expected).max() <= 5e-3 * np.abs(expected).max()
    forms = state.executable._programs[0].program.caches
    assert {form.dtype for form in forms if form.size > 1} == {"int8"}


def test_int8_caches_hold_the_same_bytes_however_they_were_filled(
    int8_caches: Any, opened: Any
) -> None:
    tokens, executable = int8_caches.tokens(38), opened(int8_caches.path)
    forms = executable._programs[0].program.caches
    filled: list[list[bytes]] = []
    for sizes in ([24, 14], [1] * 38, [5, 9, 24], [23, 1, 2, 12]):
        state = executable.new_state(40)
        for part in np.split(tokens, np.cumsum(sizes)[:-1]):
            state.step(part, rows="none")
        state.truncate(30)
        state.step(tokens[30:])
        caches = zip(forms, state._caches, strict=True)
        filled.append([form.read(cache, np.arange(38)).tobytes() for form, cache in caches])
    assert all(each == filled[0] for each in filled)
