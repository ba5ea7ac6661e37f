"""The contract of states and executables, for every registered backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arkinfer.errors import UsageError
from arkinfer.runtime.contract import Executable, LoadOptions, State
from tests.backends.expectations import FEATURES, ON_BOUNDARY, REFUSED, TOLERANCES
from tests.backends.lab import Lab, error
from tests.backends.models import MODELS

Array = npt.NDArray[Any]

DENSE, QUANTIZED = MODELS["three layers"], MODELS["three layers int4"]
CACHED = MODELS["three layers int4, int8 cache by token"]
CONTEXT, CHUNK = DENSE.context, DENSE.chunk
MODEL = QUANTIZED
"""Its tokens are the dense model's, too."""


@pytest.fixture(params=["dense", "quantized", "cached"])
def runs(request: pytest.FixtureRequest, backend: str, lab: Lab) -> Runs:
    """For tests of numbers: three models, each by its own measure of what is the same.

    Two ways to the same logits may differ as much as one of them from the oracle.
    """
    if request.param == "dense":
        return Runs(lab.executable(backend, DENSE), TOLERANCES[backend].dense)
    if request.param == "cached":
        if CACHED.name in REFUSED[backend]:
            pytest.skip("this backend keeps no scales per token")
        return Runs(lab.executable(backend, CACHED), TOLERANCES[backend].quantized + ON_BOUNDARY)
    return Runs(lab.executable(backend, QUANTIZED), TOLERANCES[backend].quantized)


@pytest.fixture
def executable(backend: str, lab: Lab) -> Executable:
    """For tests of everything else."""
    return lab.executable(backend, QUANTIZED)


@dataclass(frozen=True)
class Runs:
    executable: Executable
    tolerance: float

    def state(self, capacity: int = CONTEXT) -> State:
        return self.executable.new_state(capacity)

    def fresh(self, tokens: Array) -> Array:
        """The logits of tokens from an empty cache, in as few steps as can be."""
        return feed(self.state(), tokens, CHUNK)

    def same(self, a: Array, b: Array) -> bool:
        return error(a, b) < self.tolerance


def feed(state: State, tokens: Array, *sizes: int) -> Array:
    """All logits of tokens that go in by parts of these sizes; the last size repeats."""
    parts: list[Array] = []
    done = 0
    while done < len(tokens):
        size = sizes[min(len(parts), len(sizes) - 1)]
        parts.append(state.step(tokens[done : done + size], rows="all").logits)
        done += size
    return np.concatenate(parts)


def test_facts(backend: str, executable: Executable) -> None:
    assert (executable.vocab_size, executable.max_context, executable.chunk) == (157, 48, 16)
    assert isinstance(executable.features, frozenset)
    assert executable.features == FEATURES[backend]
    state = executable.new_state(20)
    assert (state.length, state.capacity) == (0, 20)


@pytest.mark.parametrize("sizes", [(1,), (2, 1), (1, 16, 3, 1), (7,), (16, 1, 15)])
def test_any_chunking_gives_the_same(runs: Runs, sizes: tuple[int, ...]) -> None:
    tokens = MODEL.tokens(32, seed=1)
    got = feed(runs.state(), tokens, *sizes)
    assert runs.same(got, runs.fresh(tokens))


def test_the_whole_context_can_be_used(backend: str, executable: Executable, lab: Lab) -> None:
    model = MODELS["three layers"]
    tokens = model.tokens(model.context, seed=2)
    state = lab.executable(backend, model).new_state(model.context)
    got = feed(state, tokens, CHUNK)
    assert state.length == state.capacity == model.context
    assert error(got, lab.answer(model, tokens)) < TOLERANCES[backend].dense


def test_rows(runs: Runs) -> None:
    tokens = MODEL.tokens(9, seed=3)
    every = runs.state().step(tokens, rows="all").logits
    assert every.shape == (9, 157)
    last = runs.state().step(tokens).logits
    assert last.shape == (1, 157)
    assert runs.same(last, every[-1:])
    state = runs.state()
    none = state.step(tokens[:8], rows="none")
    assert none.logits.shape == (0, 157)
    assert none.logits.dtype == np.float32
    assert none.taps == {}
    assert state.length == 8
    assert runs.same(state.step(tokens[8:]).logits, every[-1:])


def test_truncated_sequences_go_on_as_if_nothing_had_been(runs: Runs) -> None:
    tokens, other = MODEL.tokens(30, seed=4), MODEL.tokens(30, seed=5)
    expected = runs.fresh(tokens)
    state = runs.state()
    feed(state, np.concatenate([tokens[:10], other[:20]]), CHUNK)
    for length in (10, 10, 3, 0):
        state.truncate(length)
        assert state.length == length
        assert runs.same(feed(state, tokens[length:], CHUNK), expected[length:])
    state.truncate(30)
    assert state.length == 30


def test_states_do_not_touch_each_other(runs: Runs) -> None:
    sequences = [MODEL.tokens(24, seed=seed) for seed in (6, 7, 8)]
    states = [runs.state(capacity) for capacity in (24, 48, 30)]
    parts: list[list[Array]] = [[], [], []]
    for start in range(0, 24, 6):
        for index, state in enumerate(states):
            piece = sequences[index][start : start + 6]
            parts[index].append(feed(state, piece, 6 - index))
    for tokens, got in zip(sequences, parts, strict=True):
        assert runs.same(np.concatenate(got), runs.fresh(tokens))


def test_two_executables_of_one_artifact(backend: str, executable: Executable, lab: Lab) -> None:
    tokens = MODEL.tokens(12, seed=9)
    other = lab.open(backend, MODEL)
    a, b = executable.new_state(CONTEXT), other.new_state(CONTEXT)
    np.testing.assert_array_equal(a.step(tokens[:6]).logits, b.step(tokens[:6]).logits)
    expected = b.step(tokens[6:]).logits
    other.close()
    np.testing.assert_array_equal(a.step(tokens[6:]).logits, expected)


def test_the_same_steps_give_the_same_bits(runs: Runs) -> None:
    tokens = MODEL.tokens(20, seed=10)
    once, again = (feed(runs.state(), tokens, 16, 1) for _ in range(2))
    np.testing.assert_array_equal(once, again)


def test_logits_belong_to_the_caller(executable: Executable) -> None:
    """A later step, of this state or another one, does not write into them; they may be written."""
    tokens = MODEL.tokens(4, seed=11)
    state = executable.new_state(CONTEXT)
    first = state.step(tokens[:1]).logits
    kept = first.copy()
    state.step(tokens[1:2])
    executable.new_state(CONTEXT).step(tokens[2:3])
    np.testing.assert_array_equal(first, kept)
    first[:] = 0
    state.truncate(1)
    assert np.abs(state.step(tokens[1:2]).logits).max() > 0


@pytest.mark.parametrize(
    ("tokens", "what"),
    [
        ([], "A step cannot take tokens of shape (0,) and type int64."),
        ([[1, 2]], "A step cannot take tokens of shape (1, 2) and type int64."),
        ([0] * 17, "A step cannot take 17 tokens at once."),
        ([0] * 12, "The sequence cannot grow from 9 to 21 tokens."),
        ([3, -1, 4], "Token 1 of the step has the id -1."),
        ([3, 4, 157], "Token 2 of the step has the id 157."),
        ([2**40], "Token 0 of the step has the id 1099511627776."),
    ],
)
def test_a_step_that_is_refused_changes_nothing(runs: Runs, tokens: list[Any], what: str) -> None:
    good = MODEL.tokens(12, seed=12)
    state = runs.state(20)
    state.step(good[:9])
    with pytest.raises(UsageError) as refusal:
        state.step(np.array(tokens, np.int64))
    assert f"{refusal.value.what}." == what
    assert state.length == 9
    assert runs.same(state.step(good[9:], rows="all").logits, runs.fresh(good)[9:])


def test_taps_are_refused_unless_declared(executable: Executable) -> None:
    state = executable.new_state(CONTEXT)
    if "taps" not in executable.features:
        with pytest.raises(UsageError, match=r'There is no tap "layers\.0"'):
            state.step(MODEL.tokens(2), taps=("layers.0",))
    assert state.length == 0


def test_capacity_is_the_sequences_own(executable: Executable) -> None:
    tokens = MODEL.tokens(6, seed=13)
    state = executable.new_state(5)
    state.step(tokens[:5])
    with pytest.raises(UsageError) as refusal:
        state.step(tokens[5:])
    assert str(refusal.value) == (
        "The sequence cannot grow from 5 to 6 tokens. Its caches hold 5. "
        "Truncate it, or make a state with a larger context."
    )
    state.truncate(4)
    state.step(tokens[5:])
    assert state.length == 5


@pytest.mark.parametrize("context", [0, -1, 49])
def test_contexts_that_cannot_be(executable: Executable, context: int) -> None:
    with pytest.raises(UsageError) as refusal:
        executable.new_state(context)
    assert refusal.value.what == f"A sequence cannot have room for {context} tokens"


@pytest.mark.parametrize("length", [-1, 4])
def test_lengths_that_cannot_be_kept(executable: Executable, length: int) -> None:
    state = executable.new_state(CONTEXT)
    state.step(MODEL.tokens(3))
    with pytest.raises(UsageError) as refusal:
        state.truncate(length)
    assert refusal.value.what == f"A sequence of 3 tokens cannot keep {length}"
    assert state.length == 3


def test_a_closed_executable_says_so(backend: str, executable: Executable, lab: Lab) -> None:
    opened = lab.open(backend, MODEL)
    state = opened.new_state(CONTEXT)
    state.step(MODEL.tokens(3))
    opened.close()
    opened.close()
    attempts: list[Callable[[], object]] = [
        lambda: state.step(MODEL.tokens(1)),
        lambda: opened.new_state(CONTEXT),
    ]
    for attempt in attempts:
        with pytest.raises(UsageError, match=r"The model is closed\. Load the artifact again\."):
            attempt()


actions = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.integers(1, CHUNK)),
        st.tuples(st.just("cut"), st.integers(0, CONTEXT)),
        st.tuples(st.just("refused"), st.integers(0, 3)),
        st.tuples(st.just("other"), st.integers(1, 5)),
    ),
    max_size=12,
)


@given(history=actions)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_history_ends_in_the_same_logits(runs: Runs, history: list[tuple[str, int]]) -> None:
    """Whatever a state went through, it holds its tokens and nothing else."""
    source = iter(MODEL.tokens(400, seed=16))
    state, held = runs.state(), np.zeros(0, np.int64)
    for action, number in history:
        if action == "cut":
            held = held[:number]
            state.truncate(len(held))
        elif action == "step" and len(held) + number <= CONTEXT:
            fresh = np.array([next(source) for _ in range(number)])
            state.step(fresh, rows="none")
            held = np.concatenate([held, fresh])
        elif action == "refused":
            with pytest.raises(UsageError):
                state.step(np.full(number + 1, MODEL.config.vocab_size))
        elif action == "other":
            runs.state(number).step(MODEL.tokens(number, seed=17))
        assert state.length == len(held)
    if len(held) == CONTEXT:
        held = held[:-1]
        state.truncate(len(held))
    last = np.array([next(source)])
    expected = runs.fresh(np.concatenate([held, last]))[-1:]
    assert runs.same(state.step(last).logits, expected)


@pytest.mark.parametrize("threads", [1, 2, 3, None])
def test_threads(backend: str, threads: int | None, lab: Lab) -> None:
    tokens = MODEL.tokens(10, seed=14)
    opened = lab.open(backend, DENSE, LoadOptions(threads=threads))
    got = opened.new_state(CONTEXT).step(tokens, rows="all").logits
    assert error(got, lab.answer(DENSE, tokens)) < TOLERANCES[backend].dense
    opened.close()


@pytest.mark.parametrize("change", ["strided", "int32", "list"])
def test_tokens_in_other_guises(runs: Runs, change: str) -> None:
    tokens = MODEL.tokens(6, seed=15)
    expected = runs.fresh(tokens)
    guises: dict[str, Any] = {
        "strided": np.repeat(tokens, 2)[::2],
        "int32": tokens.astype(np.int32),
        "list": tokens.tolist(),
    }
    state = runs.state()
    assert runs.same(state.step(guises[change], rows="all").logits, expected)
