"""The tokens of a speculative step and who follows whom: checked, and as executors need it.

Knows no cache and no model; `features.Drafting` says what drafts mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from arkinfer.errors import UsageError
from arkinfer.runtime.contract import Executable, IntArray, State, check_tokens

MOST = 64
"""Tokens of one `draft`, so that a mask of all of them is one 64-bit number."""


@dataclass(frozen=True)
class Drafts:
    """A tree of tokens behind a sequence.

    Attributes:
        parents: int64 [M]; -1 where a token follows the sequence, else an index before its own.
    """

    parents: IntArray

    @cached_property
    def depths(self) -> IntArray:
        """Ancestors of each token, int64 [M]; its position is the sequence's length plus that."""
        depths = np.zeros(len(self.parents), np.int64)
        for token, parent in enumerate(self.parents):
            depths[token] = depths[parent] + 1 if parent >= 0 else 0
        return depths

    @cached_property
    def masks(self) -> npt.NDArray[np.uint64]:
        """uint64 [M]; bit j of row i: token i attends to token j, itself or an ancestor."""
        masks: list[int] = []
        for token, parent in enumerate(self.parents):
            masks.append((1 << token) | (masks[parent] if parent >= 0 else 0))
        return np.array(masks, np.uint64)

    @property
    def seen(self) -> npt.NDArray[np.bool_]:
        """The same as bool [M, M]."""
        bits = np.arange(len(self.parents), dtype=np.uint64)
        return (self.masks[:, None] >> bits[None, :] & np.uint64(1)).astype(np.bool_)


@lru_cache(maxsize=MOST)
def line(count: int) -> Drafts:
    """Tokens that follow one another: what a step is where nothing branches."""
    return Drafts(np.arange(-1, count - 1, dtype=np.int64))


def check_drafts(
    executable: Executable,
    state: State,
    tokens: IntArray,
    parents: IntArray,
    taps: Sequence[str] = (),
) -> tuple[IntArray, Drafts]:
    """The tokens of `draft`, int64 [M], and their tree, after the checks that all executors owe.

    Raises:
        UsageError: as `features.Drafting.draft` says; the state was not touched.
    """
    ids = check_tokens(executable, state, tokens, tuple(taps))
    if len(ids) > MOST:
        raise UsageError(
            f"{len(ids)} tokens cannot be drafted at once",
            f"A tree has at most {MOST}",
            "Leave the least likely ones out",
        )
    tree = np.ascontiguousarray(parents)
    if tree.shape != ids.shape or not np.issubdtype(tree.dtype, np.integer):
        raise UsageError(
            f"The parents of {len(ids)} drafted tokens cannot be of shape {tree.shape} and type "
            f"{tree.dtype}",
            "Each token has one, the index of another token of the step or -1",
            "Give one whole number for each token",
        )
    bad = np.flatnonzero((tree < -1) | (tree >= np.arange(len(tree))))
    if bad.size:
        token = int(bad[0])
        raise UsageError(
            f"Token {token} of the draft cannot follow token {tree[token]}",
            "A token follows one that comes before it in the draft, or with -1 the sequence",
        )
    return ids, Drafts(tree.astype(np.int64))


def check_path(drafts: Drafts | None, indices: IntArray) -> IntArray:
    """The indices of `commit`, int64 [N], after the checks that all executors owe.

    Args:
        drafts: of the latest `draft`; None: nothing was drafted since the sequence changed.
        indices: as they were given.

    Raises:
        UsageError: they are no path; the state was not touched.
    """
    path = np.ascontiguousarray(indices)
    if path.size == 0 and path.ndim <= 1:
        path = path.reshape(0).astype(np.int64)
    if path.ndim != 1 or not np.issubdtype(path.dtype, np.integer):
        raise UsageError(
            f"Drafts cannot be committed by indices of shape {path.shape} and type {path.dtype}",
            "",
            "Give the indices of the tokens to keep, as whole numbers",
        )
    if drafts is None:
        raise UsageError(
            "There are no drafts to commit",
            "Nothing was drafted, or the sequence has changed since",
            "Call draft first",
        )
    count, before = len(drafts.parents), -1
    for token in (int(index) for index in path):
        if not 0 <= token < count:
            raise UsageError(
                f"Draft {token} cannot be committed", f"There are {count}, counted from 0"
            )
        parent = int(drafts.parents[token])
        if parent != before:
            follows = f"token {parent}" if parent >= 0 else "the sequence"
            after = f"token {before}" if before >= 0 else "the sequence"
            raise UsageError(
                f"Draft {token} cannot be committed after {after}",
                f"It was drafted to follow {follows}",
                "Give the tokens of one path, from its beginning",
            )
        before = token
    return path.astype(np.int64)
