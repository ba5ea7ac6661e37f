"""The feature "tree": drafts are what their paths alone would be, and one path may stay."""

from __future__ import annotations

from io import BytesIO
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arkinfer.errors import ArtifactError, UsageError
from arkinfer.runtime.contract import Executable, LoadOptions, State
from arkinfer.runtime.features import Drafting, Persistent
from tests.backends.expectations import ON_BOUNDARY, REFUSED, TOLERANCES
from tests.backends.lab import Lab, error
from tests.backends.models import DEEP, MODELS

pytestmark = pytest.mark.feature("tree")

Array = npt.NDArray[Any]

DENSE = MODELS["three layers"]
KINDS = {
    "dense": DENSE,
    "int8 cache": MODELS["three layers int4, int8 cache by token"],
    "bf16 cache": MODELS["three layers int4, bf16 cache"],
}
CONTEXT, CHUNK = DENSE.context, DENSE.chunk
ROOT = -1


class Runs:
    """An executable, and by what measure two ways to the same logits are the same."""

    def __init__(self, executable: Executable, tolerance: float) -> None:
        self.executable, self.tolerance = executable, tolerance

    def state(self, tokens: Array | None = None) -> Drafting:
        """With these tokens in it."""
        state = self.executable.new_state(CONTEXT)
        for start in range(0, 0 if tokens is None else len(tokens), CHUNK):
            assert tokens is not None
            state.step(tokens[start : start + CHUNK], rows="none")
        return cast(Drafting, state)

    def same(self, a: Array, b: Array) -> bool:
        return error(a, b) < self.tolerance


@pytest.fixture(params=KINDS)
def runs(request: pytest.FixtureRequest, backend: str, lab: Lab) -> Runs:
    model = KINDS[request.param]
    if model.name in REFUSED[backend]:
        pytest.skip(f"{backend} keeps no such cache")
    allowed = TOLERANCES[backend]
    exact = model is DENSE
    tolerance = allowed.dense if exact else allowed.quantized + ON_BOUNDARY
    return Runs(lab.executable(backend, model), tolerance)


def ids(*tokens: int) -> Array:
    return np.array(tokens, np.int64)


def path_to(parents: Array, token: int) -> list[int]:
    path = [token]
    while parents[path[0]] != ROOT:
        path.insert(0, int(parents[path[0]]))
    return path


@st.composite
def trees(draw: st.DrawFn, most: int = CHUNK) -> tuple[Array, Array]:
    """Tokens and their parents: lines, stars, bushes and several roots."""
    count = draw(st.integers(1, most))
    parents = [draw(st.integers(max(-1, i - draw(st.sampled_from((1, 3, 99)))), i - 1))
               for i in range(count)]  # fmt: skip
    tokens = DENSE.tokens(count, seed=draw(st.integers(0, 99)))
    return tokens, np.array(parents, np.int64)


PROPERTY = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@given(tree=trees(), before=st.integers(0, CONTEXT - CHUNK - 1))
@PROPERTY
def test_rows_are_those_of_their_paths(runs: Runs, tree: tuple[Array, Array], before: int) -> None:
    tokens, parents = tree
    held = DENSE.tokens(before, seed=100)
    state = runs.state(held)
    got = state.draft(tokens, parents)
    assert got.logits.shape == (len(tokens), DENSE.config.vocab_size)
    assert got.taps == {}
    assert state.length == before
    leaves = set(range(len(tokens))) - set(parents.tolist())
    for leaf in leaves:
        path = path_to(parents, leaf)
        expected = runs.state(held).step(tokens[path], rows="all").logits
        assert runs.same(got.logits[path], expected)


@given(tree=trees(), before=st.integers(0, 20), data=st.data())
@PROPERTY
def test_a_committed_path_is_as_if_it_alone_had_been_decoded(
    runs: Runs, tree: tuple[Array, Array], before: int, data: st.DataObject
) -> None:
    tokens, parents = tree
    held, more = DENSE.tokens(before, seed=101), DENSE.tokens(4, seed=102)
    state = runs.state(held)
    state.draft(tokens, parents)
    path = path_to(parents, data.draw(st.integers(0, len(tokens) - 1)))
    path = path[: data.draw(st.integers(0, len(path)))]
    state.commit(ids(*path))
    assert state.length == before + len(path)
    alone = runs.state(np.concatenate([held, tokens[path]]))
    assert runs.same(*(each.step(more, rows="all").logits for each in (state, alone)))
    keep = data.draw(st.integers(0, state.length))
    for each in (state, alone):
        each.truncate(keep)
    assert runs.same(*(each.step(more, rows="all").logits for each in (state, alone)))


actions = st.lists(
    st.one_of(
        st.tuples(st.just("draft"), trees(6)),
        st.tuples(st.just("commit"), st.integers(0, 5)),
        st.tuples(st.just("step"), st.integers(1, 4)),
        st.tuples(st.just("cut"), st.integers(0, CONTEXT)),
        st.tuples(st.just("refused"), st.integers(0, 4)),
    ),
    max_size=14,
)


@given(history=actions)
@PROPERTY
def test_any_history_ends_in_the_same_logits(runs: Runs, history: list[tuple[str, Any]]) -> None:
    """Whatever was drafted, kept, forgotten or refused, a state holds its tokens and no others."""
    state, held = runs.state(), ids()
    drafted: tuple[Array, Array] | None = None
    for action, what in history:
        if action == "draft" and len(held) + len(what[0]) <= CONTEXT:
            state.draft(*what)
            drafted = what
        elif action == "commit" and drafted is not None and what < len(drafted[0]):
            path = path_to(drafted[1], what)
            state.commit(ids(*path))
            held, drafted = np.concatenate([held, drafted[0][path]]), None
        elif action == "step" and len(held) + what <= CONTEXT:
            fresh = DENSE.tokens(what, seed=len(held))
            state.step(fresh, rows="none")
            held, drafted = np.concatenate([held, fresh]), None
        elif action == "cut":
            held, drafted = held[:what], None
            state.truncate(len(held))
        elif action == "refused":
            for attempt in (
                lambda: state.step(ids(-1)),
                lambda: state.draft(ids(1), ids(0)),
                lambda: state.commit(ids(99)),
                lambda: state.truncate(-1),
            ):
                with pytest.raises(UsageError):
                    attempt()
        assert state.length == len(held)
    if len(held) == CONTEXT:
        held = held[:-1]
        state.truncate(len(held))
    last = ids(7)
    assert runs.same(state.step(last).logits, runs.state(held).step(last).logits)


def test_64_drafts_far_into_a_sequence(backend: str, lab: Lab) -> None:
    """Where attention goes over the cache in several ranges; the largest tree there may be."""
    allowed = TOLERANCES[backend].dense
    runs = Runs(lab.executable(backend, DEEP), allowed)
    rng = np.random.default_rng(3)
    held, tokens = DEEP.tokens(301, seed=11), DEEP.tokens(64, seed=12)
    parents = np.array([rng.integers(max(-1, i - 5), i) for i in range(64)])

    def state() -> Drafting:
        made = runs.executable.new_state(400)
        for start in range(0, len(held), DEEP.chunk):
            made.step(held[start : start + DEEP.chunk], rows="none")
        return cast(Drafting, made)

    drafting = state()
    got = drafting.draft(tokens, parents).logits
    for token in (0, 31, 63):
        path = path_to(parents, token)
        assert runs.same(got[path], state().step(tokens[path], rows="all").logits)
    drafting.commit(ids(*path))
    alone = state()
    alone.step(tokens[path])
    assert runs.same(drafting.step(ids(5)).logits, alone.step(ids(5)).logits)


def test_a_line_of_drafts_is_a_step(runs: Runs) -> None:
    held, tokens = DENSE.tokens(9, seed=1), DENSE.tokens(12, seed=2)
    state, other = runs.state(held), runs.state(held)
    line = np.arange(-1, 11)
    got, expected = state.draft(tokens, line).logits, other.step(tokens, rows="all").logits
    assert runs.same(got, expected)
    state.commit(np.arange(12))
    assert state.length == other.length == 21
    assert runs.same(state.step(ids(5)).logits, other.step(ids(5)).logits)


@pytest.mark.parametrize("how", ["step", "draft", "truncate", "truncate less", "commit"])
def test_what_forgets_the_drafts(runs: Runs, how: str) -> None:
    held = DENSE.tokens(6, seed=3)
    state = runs.state(held)
    state.draft(ids(1, 2, 3), ids(ROOT, 0, 0))
    if how == "step":
        state.step(ids(9))
        held = np.concatenate([held, ids(9)])
    elif how == "draft":
        state.draft(ids(4), ids(ROOT))
        with pytest.raises(UsageError, match="Draft 2 cannot be committed"):
            state.commit(ids(2))
        state.truncate(6)
    elif how == "truncate":
        state.truncate(6)
    elif how == "truncate less":
        state.truncate(4)
        held = held[:4]
    else:
        state.commit(ids())
    with pytest.raises(UsageError) as refusal:
        state.commit(ids(0))
    assert str(refusal.value) == (
        "There are no drafts to commit. Nothing was drafted, or the sequence has changed since. "
        "Call draft first."
    )
    assert state.length == len(held)
    assert runs.same(state.step(ids(8)).logits, runs.state(held).step(ids(8)).logits)


def test_drafts_have_to_fit_but_do_not_count(runs: Runs) -> None:
    state = runs.executable.new_state(8)
    state = cast(Drafting, state)
    state.step(DENSE.tokens(5))
    with pytest.raises(UsageError, match=r"The sequence cannot grow from 5 to 9 tokens\."):
        state.draft(ids(1, 2, 3, 4), ids(ROOT, ROOT, ROOT, ROOT))
    for _ in range(3):
        state.draft(ids(1, 2, 3), ids(ROOT, ROOT, ROOT))
    state.commit(ids(1))
    assert state.length == 6
    state.step(ids(4, 5))
    assert state.length == state.capacity


REFUSALS = [
    ([1, 2], [ROOT], "The parents of 2 drafted tokens cannot be of shape (1,) and type int64."),
    ([1, 2], [ROOT, 1], "Token 1 of the draft cannot follow token 1."),
    ([1, 2], [1, ROOT], "Token 0 of the draft cannot follow token 1."),
    ([1, 2], [ROOT, -2], "Token 1 of the draft cannot follow token -2."),
    ([1, 2], [ROOT, 0.0], "The parents of 2 drafted tokens cannot be of shape (2,) and type "
     "float64."),
    ([1, 157], [ROOT, 0], "Token 1 of the step has the id 157."),
    ([], [], "A step cannot take tokens of shape (0,) and type int64."),
    ([0] * 17, [ROOT] * 17, "A step cannot take 17 tokens at once."),
]  # fmt: skip


@pytest.mark.parametrize(("tokens", "parents", "what"), REFUSALS)
def test_a_draft_that_is_refused_changes_nothing(
    runs: Runs, tokens: list[int], parents: list[Any], what: str
) -> None:
    state = runs.state(DENSE.tokens(4, seed=5))
    state.draft(ids(6, 7), ids(ROOT, 0))
    with pytest.raises(UsageError) as refusal:
        state.draft(np.array(tokens, np.int64), np.array(parents))
    assert f"{refusal.value.what}." == what
    state.commit(ids(0, 1))  # of the draft before
    expected = runs.state(np.concatenate([DENSE.tokens(4, seed=5), ids(6, 7)]))
    assert runs.same(state.step(ids(3)).logits, expected.step(ids(3)).logits)


@pytest.mark.parametrize(
    ("indices", "text"),
    [
        ([4], "Draft 4 cannot be committed. There are 4, counted from 0."),
        ([-1], "Draft -1 cannot be committed. There are 4, counted from 0."),
        ([1], "Draft 1 cannot be committed after the sequence. It was drafted to follow token 0. "
         "Give the tokens of one path, from its beginning."),
        ([0, 2], "Draft 2 cannot be committed after token 0. It was drafted to follow token 1. "
         "Give the tokens of one path, from its beginning."),
        ([0, 3], "Draft 3 cannot be committed after token 0. It was drafted to follow the "
         "sequence. Give the tokens of one path, from its beginning."),
        ([0, 0], "Draft 0 cannot be committed after token 0. It was drafted to follow the "
         "sequence. Give the tokens of one path, from its beginning."),
        ([[0]], "Drafts cannot be committed by indices of shape (1, 1) and type int64. Give the "
         "indices of the tokens to keep, as whole numbers."),
        ([0.0], "Drafts cannot be committed by indices of shape (1,) and type float64. Give the "
         "indices of the tokens to keep, as whole numbers."),
    ],
)  # fmt: skip
def test_what_is_no_path_is_refused_and_the_drafts_are_still_there(
    runs: Runs, indices: list[Any], text: str
) -> None:
    state = runs.state(DENSE.tokens(4, seed=6))
    state.draft(ids(1, 2, 3, 4), ids(ROOT, 0, 1, ROOT))
    with pytest.raises(UsageError) as refusal:
        state.commit(np.array(indices))
    assert str(refusal.value) == text
    assert state.length == 4
    state.commit(ids(0, 1, 2))
    assert state.length == 7


def test_the_numbers_of_a_draft_belong_to_the_caller(runs: Runs) -> None:
    state = runs.state(DENSE.tokens(3))
    tokens, parents = ids(1, 2, 3), ids(ROOT, 0, ROOT)
    logits = state.draft(tokens, parents).logits
    kept = logits.copy()
    parents[:] = tokens[:] = 0  # and what was given belongs to him, too
    state.commit(ids(0, 1))
    state.step(ids(4))
    np.testing.assert_array_equal(logits, kept)


def test_states_draft_side_by_side(runs: Runs) -> None:
    held = [DENSE.tokens(5, seed=7), DENSE.tokens(11, seed=8)]
    states = [runs.state(each) for each in held]
    for state in states:
        state.draft(ids(1, 2, 3), ids(ROOT, 0, 0))
    for state, path in zip(states, ([0, 2], [0, 1]), strict=True):
        state.commit(ids(*path))
    ends = (ids(1, 3), ids(1, 2))
    for state, each, end in zip(states, held, ends, strict=True):
        alone = runs.state(np.concatenate([each, end]))
        assert runs.same(state.step(ids(9)).logits, alone.step(ids(9)).logits)


def test_saving_leaves_drafts_alone_and_out(runs: Runs) -> None:
    if "persist" not in runs.executable.features:
        pytest.skip("this backend saves no states")
    held = DENSE.tokens(5, seed=9)
    plain, state = runs.state(held), runs.state(held)
    state.draft(ids(1, 2), ids(ROOT, 0))
    files = [BytesIO(), BytesIO()]
    for each, file in zip((plain, state), files, strict=True):
        cast(Persistent, each).save(file)
    assert files[0].getvalue() == files[1].getvalue()
    state.commit(ids(0, 1))
    assert state.length == 7
    state.draft(ids(1, 2), ids(ROOT, 0))
    cast(Persistent, state).restore(BytesIO(files[0].getvalue()))
    with pytest.raises(UsageError, match="There are no drafts to commit"):
        state.commit(ids(0))


@pytest.mark.parametrize("length", [0, 5])
def test_a_state_that_cannot_be_restored_keeps_its_drafts(runs: Runs, length: int) -> None:
    if "persist" not in runs.executable.features:
        pytest.skip("this backend saves no states")
    held, file = DENSE.tokens(length, seed=10), BytesIO()
    cast(Persistent, runs.state(DENSE.tokens(20, seed=13))).save(file)
    state = runs.state(held)
    state.draft(ids(1, 2, 3), ids(ROOT, ROOT, 1))
    with pytest.raises(ArtifactError):
        cast(Persistent, state).restore(BytesIO(file.getvalue()[:-1]))
    state.commit(ids(1, 2))
    alone = runs.state(np.concatenate([held, ids(2, 3)]))
    assert runs.same(state.step(ids(4)).logits, alone.step(ids(4)).logits)


def test_a_closed_executable_drafts_nothing(backend: str, lab: Lab) -> None:
    opened = lab.open(backend, DENSE, LoadOptions(threads=1))
    state: State = opened.new_state(CONTEXT)
    opened.close()
    with pytest.raises(UsageError, match=r"The model is closed\."):
        cast(Drafting, state).draft(ids(1), ids(ROOT))
