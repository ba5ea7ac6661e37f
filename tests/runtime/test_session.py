"""A session knows what its state holds, whatever interrupts it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arkinfer.runtime.session import Session
from tests.runtime.bigram import BigramExecutable, BigramState, naive_logits

VOCABULARY = 30
tokens = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=40)


def model(chunk: int = 4) -> BigramExecutable:
    return BigramExecutable(VOCABULARY, 64, chunk)


def session(executable: BigramExecutable) -> Session:
    return Session(executable.new_state(64), executable.chunk)


@given(ids=tokens, chunk=st.integers(1, 9))
def test_any_chunking_gives_the_same_logits(ids: list[int], chunk: int):
    executable = model(chunk)
    expected = naive_logits(executable, ids)
    assert np.allclose(session(executable).extend(ids), expected[-1], atol=1e-4)
    rows = np.concatenate(list(session(executable).rows(ids)))
    assert np.allclose(rows, expected, atol=1e-4)
    one_by_one = session(executable)
    assert np.allclose([one_by_one.extend([i]) for i in ids], expected, atol=1e-4)


@given(first=tokens, second=tokens, shared=tokens)
def test_a_prompt_reuses_what_it_shares(first: list[int], second: list[int], shared: list[int]):
    executable = model()
    warm = session(executable)
    warm.extend((shared + first)[:64])
    prompt = (shared + second)[:64]
    kept = warm.resume(prompt[:-1])
    assert kept >= min(len(shared), len(prompt) - 1)
    assert warm.ids == prompt[:kept]
    logits = warm.extend(prompt[kept:])
    assert np.allclose(logits, naive_logits(executable, prompt)[-1], atol=1e-4)


def test_a_prompt_goes_in_chunks_and_only_the_last_wants_logits():
    executable = model(chunk=4)
    seen: list[tuple[int, int]] = []
    session(executable).extend(list(range(10)), lambda done, total: seen.append((done, total)))
    assert executable.steps == [4, 4, 2]
    assert seen == [(4, 10), (8, 10), (10, 10)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("at", [0, 4, 8])
def test_an_interrupt_keeps_the_chunks_that_were_done(error: type[BaseException], at: int):
    executable = model(chunk=4)
    interrupted = session(executable)

    def stop(length: int) -> None:
        if length == at:
            raise error

    executable.before_step = stop
    with pytest.raises(error):
        interrupted.extend(list(range(10)))
    assert interrupted.ids == list(range(at))
    executable.before_step = lambda length: None
    interrupted.resume(list(range(9)))
    logits = interrupted.extend(list(range(at, 10)))
    assert np.allclose(logits, naive_logits(executable, list(range(10)))[-1], atol=1e-4)


def test_an_interrupt_just_after_the_state_took_the_tokens():
    """Ctrl-C may come when the step is done and the session has not noted it yet."""
    executable = model(chunk=4)

    class Late(BigramState):
        def step(self, *args: object, **options: object):
            super().step(*args, **options)
            raise KeyboardInterrupt

    state = Late(executable, 64)
    interrupted = Session(state, 4)
    with pytest.raises(KeyboardInterrupt):
        interrupted.extend([1, 2, 3])
    assert interrupted.ids == []
    assert state.length == 0
