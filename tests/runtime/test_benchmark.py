"""What is timed, with a clock that counts tokens, and the arithmetic of rates."""

from __future__ import annotations

from typing import Any

import pytest

from arkinfer.errors import UsageError
from arkinfer.runtime.benchmark import Case, Measurement, cases, measure
from tests.runtime.bigram import BigramExecutable


def test_cases():
    assert cases([8, 16, 8], [0, 4], 2, 16) == [
        Case("prefill", 0, 8), Case("prefill", 0, 16), Case("decode", 0, 2), Case("decode", 4, 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (([0], [], 1, 16), "A prompt length cannot be 0. Give at least 1."),
        (([], [-1], 1, 16), "A depth cannot be -1. Give at least 0."),
        (([], [1], 0, 16), "A number of tokens cannot be 0. Give at least 1."),
        (([], [15], 2, 16), "A decode of 2 tokens at depth 15 does not fit. The context holds 16 "
         "tokens. Give shorter lengths or depths."),
        (([17], [], 2, 16), "A prefill of 17 tokens at depth 0 does not fit. The context holds 16 "
         "tokens. Give shorter lengths or depths."),
    ],
)  # fmt: skip
def test_impossible_cases(arguments: Any, text: str):
    with pytest.raises(UsageError) as caught:
        cases(*arguments)
    assert str(caught.value) == text


def test_exactly_the_cases_tokens_are_timed():
    """The clock stands still but for tokens: a second each, two for the warm-up's successor."""
    model = BigramExecutable(30, 64, 4)
    wanted = cases([10, 7], [0, 12, 5], 3, 64)
    results = measure(model, wanted, rounds=2, clock=lambda: float(sum(model.steps)))
    assert [r.case for r in results] == wanted
    assert [r.seconds for r in results] == [[float(case.tokens)] * 2 for case in wanted]
    assert all(r.median == 1.0 and r.spread == (1.0, 1.0) for r in results)


def test_decode_goes_token_by_token_and_prefill_in_chunks():
    model = BigramExecutable(30, 64, 4)
    measure(model, [Case("prefill", 0, 10)], rounds=1)
    assert model.steps == [4, 4, 2] * 2
    model.steps.clear()
    measure(model, [Case("decode", 4, 2)], rounds=1)
    assert model.steps == [4, 1, 1, 1, 1]  # the second round keeps the four


def test_the_median_and_the_spread():
    result = Measurement(Case("decode", 0, 10), [1.0, 2.0, 10.0])
    assert result.median == 5.0
    assert result.spread == (1.0, 10.0)


def test_progress_ends_at_all():
    seen: list[tuple[int, int]] = []
    model = BigramExecutable(30, 64, 4)
    measure(model, cases([8], [4], 2, 64), rounds=1, progress=lambda *n: seen.append(n))
    assert seen[-1] == (28, 28)


@pytest.mark.parametrize(
    ("wanted", "rounds", "text"),
    [
        ([Case("decode", 0, 1)], 0, "There cannot be 0 rounds. Give at least 1."),
        ([], 1, "There is nothing to measure. Give a prompt length or a depth."),
    ],
)
def test_nothing_to_measure(wanted: list[Case], rounds: int, text: str):
    with pytest.raises(UsageError) as caught:
        measure(BigramExecutable(30, 64, 4), wanted, rounds=rounds)
    assert str(caught.value) == text
