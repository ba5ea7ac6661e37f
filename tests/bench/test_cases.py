"""What is timed, with a clock that counts tokens."""

from __future__ import annotations

from typing import Any

import pytest

from arkinfer.bench.cases import Case, TimedExecutable, cases, sample
from arkinfer.errors import UsageError
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
        (([], [], 1, 16), "There is nothing to measure. Give a prompt length or a depth."),
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
    """The clock stands still but for tokens: a second each."""
    model = BigramExecutable(30, 64, 4)
    engine = TimedExecutable(model, 64)
    for case in [*cases([10, 7], [0, 12, 5], 3, 64)] * 2:
        assert sample(engine, case, lambda: float(sum(model.steps))) == case.tokens


def test_decode_goes_token_by_token_and_prefill_in_chunks():
    model = BigramExecutable(30, 64, 4)
    engine = TimedExecutable(model, 16)
    for _ in range(2):
        sample(engine, Case("prefill", 0, 10))
    assert model.steps == [4, 4, 2] * 2
    model.steps.clear()
    engine = TimedExecutable(model, 16)
    for _ in range(2):
        sample(engine, Case("decode", 4, 2))
    assert model.steps == [4, 1, 1, 1, 1]  # the second time keeps the four


def test_names():
    assert Case("prefill", 0, 2048).name == "prefill 2,048"
    assert Case("decode", 1024, 16).name == "decode at 1,024"
    assert Case("step", 1024, 8).name == "step of 8 at 1,024"


def test_a_step_is_one_step_that_wants_all_logits():
    model = BigramExecutable(30, 64, 16)
    engine = TimedExecutable(model, 32)
    for _ in range(2):
        sample(engine, Case("step", 12, 8))
    assert model.steps == [12, 8, 8]  # the cache is rewound, not filled again


def test_an_engine_with_a_better_clock():
    class Own:
        def seek(self, depth: int) -> None: ...

        def prefill(self, count: int) -> float:
            return 0.25

        def decode(self, count: int) -> None: ...

    assert sample(Own(), Case("prefill", 0, 8), lambda: 7.0) == 0.25  # type: ignore[arg-type]  # no steps
    assert sample(Own(), Case("decode", 0, 8), iter([1.0, 3.0]).__next__) == 2.0  # type: ignore[arg-type]  # no steps
