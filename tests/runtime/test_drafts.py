"""Trees of drafted tokens as executors need them: depths and masks."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arkinfer.errors import UsageError
from arkinfer.runtime.drafts import MOST, Drafts, check_drafts, check_path, line


@st.composite
def trees(draw: st.DrawFn) -> Drafts:
    count = draw(st.integers(1, MOST))
    return Drafts(np.array([draw(st.integers(-1, i - 1)) for i in range(count)], np.int64))


def path_to(drafts: Drafts, token: int) -> list[int]:
    path = [token]
    while drafts.parents[path[0]] >= 0:
        path.insert(0, int(drafts.parents[path[0]]))
    return path


@given(trees())
def test_a_token_sees_its_path_and_stands_at_its_end(drafts: Drafts) -> None:
    for token in range(len(drafts.parents)):
        path = path_to(drafts, token)
        assert drafts.depths[token] == len(path) - 1
        assert int(drafts.masks[token]) == sum(1 << ancestor for ancestor in path)
        assert np.flatnonzero(drafts.seen[token]).tolist() == path
    assert (drafts.depths.dtype, drafts.masks.dtype) == (np.int64, np.uint64)


@pytest.mark.parametrize("count", [1, 2, 63, MOST])
def test_a_line_is_causal(count: int) -> None:
    drafts = line(count)
    assert drafts.depths.tolist() == list(range(count))
    np.testing.assert_array_equal(drafts.seen, np.tri(count, dtype=np.bool_))
    assert int(drafts.masks[-1]) == (1 << count) - 1


class Large:
    """Takes more tokens in a step than can be drafted."""

    chunk, vocab_size, features = 512, 10, frozenset({"tree"})
    length, capacity = 0, 512


@pytest.mark.parametrize("count", [MOST, MOST + 1])
def test_at_most_64_tokens_are_drafted(count: int) -> None:
    both = cast(Any, Large())
    parents = line(count).parents
    if count == MOST:
        assert len(check_drafts(both, both, np.zeros(count, np.int64), parents)[0]) == MOST
        return
    with pytest.raises(UsageError) as refusal:
        check_drafts(both, both, np.zeros(count, np.int64), parents)
    assert str(refusal.value) == (
        "65 tokens cannot be drafted at once. A tree has at most 64. Leave the least likely ones "
        "out."
    )


@given(trees(), st.data())
def test_paths_and_nothing_else_can_be_committed(drafts: Drafts, data: st.DataObject) -> None:
    count = len(drafts.parents)
    path = path_to(drafts, data.draw(st.integers(0, count - 1)))
    assert check_path(drafts, np.array(path)).tolist() == path
    assert check_path(drafts, cast(Any, [])).tolist() == []
    other = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=5))
    if other != path_to(drafts, other[-1]):
        with pytest.raises(UsageError):
            check_path(drafts, np.array(other))
