"""Perplexity against the formula in float64, window by window."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arkinfer.errors import InternalError, UsageError
from arkinfer.runtime import perplexity
from arkinfer.runtime.perplexity import Score, log_likelihood, score_text, windows
from tests.runtime.bigram import BigramExecutable, naive_logits

MODEL = BigramExecutable(30, 40, 4)


def nll_of(ids: list[int], first: int) -> float:
    """-sum of ln p of ids[first:], from a full pass over ids."""
    logits = naive_logits(MODEL, ids).astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -sum(logs[i - 1, ids[i]] for i in range(first, len(ids)))


@given(length=st.integers(1, 60), window=st.integers(1, 20), data=st.data())
def test_windows_score_every_token_once(length: int, window: int, data: st.DataObject):
    stride = data.draw(st.integers(1, window))
    parts = windows(length, window, stride)
    scored = [i for part in parts for i in range(part.score, part.end)]
    assert scored == list(range(length))
    for part in parts:
        assert part.end - part.start <= window
        assert part.score == 0 or part.score - part.start >= window - stride


@given(
    ids=st.lists(st.integers(0, 29), min_size=2, max_size=60),
    window=st.integers(2, 20),
    bos=st.sampled_from([None, 1]),
    data=st.data(),
)
def test_the_score_is_the_formulas(
    ids: list[int], window: int, bos: int | None, data: st.DataObject
):
    stride = data.draw(st.integers(1, window))
    score = score_text(MODEL, ids, bos=bos, window=window, stride=stride)
    expected, count = 0.0, 0
    for part in windows(len(ids), window, stride):
        lead = [] if bos is None else [bos]
        first = part.score - part.start + len(lead) or 1
        expected += nll_of(lead + ids[part.start : part.end], first)
        count += part.end - part.start + len(lead) - first
    assert score.tokens == count == len(ids) - (bos is None) * _unscored(ids, window, stride)
    assert math.isclose(score.nll, expected, rel_tol=1e-4)
    assert math.isclose(score.perplexity, math.exp(expected / count), rel_tol=1e-3)


def _unscored(ids: list[int], window: int, stride: int) -> int:
    """Tokens with nothing before them in the window that scores them."""
    return sum(part.score == part.start for part in windows(len(ids), window, stride))


def test_one_window_is_one_pass():
    ids = [3, 4, 5, 6, 7, 8]
    score = score_text(MODEL, ids, bos=1, window=39, stride=20)
    assert math.isclose(score.nll, nll_of([1, *ids], 1), rel_tol=1e-5)
    assert (score.tokens, score.windows) == (6, 1)


def test_progress_counts_tokens():
    seen: list[tuple[int, int]] = []
    score_text(MODEL, list(range(10)), bos=1, window=4, stride=4,
               progress=lambda *n: seen.append(n))  # fmt: skip
    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_log_likelihood_in_blocks():
    random = np.random.default_rng(2)
    logits = random.standard_normal((150, 20)).astype(np.float32) * 50 + 1e4
    tokens = random.integers(0, 20, 150).tolist()
    wide = logits.astype(np.float64)
    best = wide.max(axis=1)
    logs = wide[range(150), tokens] - best - np.log(np.exp(wide - best[:, None]).sum(axis=1))
    assert math.isclose(log_likelihood(logits, tokens), logs.sum(), rel_tol=1e-12)


def test_broken_logits_are_named():
    with pytest.raises(InternalError, match="output is not a number"):
        log_likelihood(np.full((2, 3), np.nan, np.float32), [0, 1])


def test_a_hopeless_model_has_infinite_perplexity():
    assert Score(nll=1e9, tokens=10, windows=1).perplexity == math.inf


@pytest.mark.parametrize(
    ("ids", "bos", "window", "stride", "text"),
    [
        ([1, 2], 1, 40, 4, "A window of 40 tokens does not fit. The context holds 40 tokens, one "
         "of them the BOS. Give a window of at most 39 tokens."),
        ([1, 2], None, 41, 4, "A window of 41 tokens does not fit. The context holds 40 tokens. "
         "Give a window of at most 40 tokens."),
        ([1, 2], 1, 4, 5, "A window of 4 tokens cannot move by 5. Give a window of at least 1 "
         "token and a stride from 1 to the window."),
        ([1, 2], 1, 4, 0, "A window of 4 tokens cannot move by 0. Give a window of at least 1 "
         "token and a stride from 1 to the window."),
        ([1], None, 4, 2, "The text has too few tokens to score. Give a longer text."),
        ([1, 2], None, 1, 1, "Windows of 1 token score nothing. There is no BOS, so that the "
         "first token of a window has nothing before it. Give a window of at least 2 tokens."),
    ],
)  # fmt: skip
def test_what_cannot_be_scored(
    ids: list[int], bos: int | None, window: int, stride: int, text: str
):
    with pytest.raises(UsageError) as caught:
        score_text(MODEL, ids, bos=bos, window=window, stride=stride)
    assert str(caught.value) == text


def test_docstring_examples():
    result = doctest.testmod(perplexity)
    assert result.attempted > 0
    assert result.failed == 0
