"""One sequence on an executable: the state, and which tokens it holds.

Knows no text, no sampling and no stop rule. One thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import TypeAlias

import numpy as np

from arkinfer.runtime.contract import FloatArray, Rows, State

Progress: TypeAlias = Callable[[int, int], object]
"""Called after each chunk of a prompt with the tokens done and the tokens in all."""


class Session:
    """A state whose tokens are known, so that a prompt that goes on from them reuses them.

    `ids` is at every moment a prefix of what the state holds, whatever interrupts a step:
    tokens are noted after the state took them, and forgotten before it gives them up.

    Args:
        state: an empty state.
        chunk: the most tokens that one of its steps takes.
    """

    def __init__(self, state: State, chunk: int) -> None:
        self._state = state
        self._chunk = chunk
        self.ids: list[int] = []

    def resume(self, prompt: Sequence[int]) -> int:
        """Keeps the longest common prefix of `ids` and `prompt`; how long it is."""
        same = takewhile(lambda pair: pair[0] == pair[1], zip(self.ids, prompt, strict=False))
        length = sum(1 for _ in same)
        self._truncate(length)
        return length

    def extend(self, tokens: Sequence[int], progress: Progress | None = None) -> FloatArray:
        """Appends tokens, chunk by chunk; the logits after the last, float32 [vocab].

        KeyboardInterrupt between or inside chunks leaves the chunks that were done.
        """
        starts = range(0, len(tokens), self._chunk)
        for start in starts[:-1]:
            self._step(tokens[start : start + self._chunk], "none")
            if progress is not None:
                progress(start + self._chunk, len(tokens))
        logits = self._step(tokens[starts[-1] :], "last")[-1]
        if progress is not None:
            progress(len(tokens), len(tokens))
        return logits

    def rows(self, tokens: Sequence[int]) -> Iterator[FloatArray]:
        """Appends tokens, chunk by chunk; the logits after each, float32 [chunk, vocab]."""
        for start in range(0, len(tokens), self._chunk):
            yield self._step(tokens[start : start + self._chunk], "all")

    def _step(self, tokens: Sequence[int], rows: Rows) -> FloatArray:
        before = len(self.ids)
        try:
            output = self._state.step(np.asarray(tokens, np.int64), rows=rows)
        except BaseException:
            self._truncate(before)  # for Ctrl-C just after the state took the tokens
            raise
        self.ids.extend(tokens)
        return output.logits

    def _truncate(self, length: int) -> None:
        del self.ids[length:]
        if self._state.length > length:
            self._state.truncate(length)
