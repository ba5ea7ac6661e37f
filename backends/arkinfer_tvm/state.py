"""One sequence on the TVM backend: its caches, and how steps are given to its executable.

Knows no file and no kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from arkinfer.runtime.contract import (
    IntArray,
    Observer,
    OpTime,
    Rows,
    StepOutput,
    StepTimes,
    check_length,
    check_tokens,
)
from arkinfer.runtime.drafts import Drafts, check_drafts, check_path
from arkinfer.runtime.saved_state import restore_state, save_state
from arkinfer_tvm.library import Arguments, Array, aligned

if TYPE_CHECKING:
    from arkinfer_tvm.executor import TvmExecutable


class TvmState:
    """One sequence: its caches, as `storage` says how they lie, and its length."""

    def __init__(
        self,
        executable: TvmExecutable,
        caches: list[Array],
        arguments: Sequence[Arguments],
        capacity: int,
    ) -> None:
        self.executable = executable
        self._caches = caches  # the arguments point to them
        self._arguments = arguments
        self._length = 0
        self._drafts: Drafts | None = None
        self._capacity = capacity
        self._tokens = aligned((executable.chunk,), np.int64)
        self._rows = aligned((executable.chunk,), np.int64)
        self._last: tuple[int, Rows, Array, Array] = 0, "none", self._tokens[:0], self._rows[:0]

    @property
    def length(self) -> int:
        return self._length

    @property
    def capacity(self) -> int:
        return self._capacity

    def step(
        self, tokens: IntArray, *, rows: Rows = "last", taps: tuple[str, ...] = ()
    ) -> StepOutput:
        """Appends tokens; see `arkinfer.runtime.contract.State.step`."""
        ids = check_tokens(self.executable, self, tokens, taps)
        output = self._run(ids, rows, taps, None)
        self._length += len(ids)
        return output

    def draft(
        self, tokens: IntArray, parents: IntArray, *, taps: tuple[str, ...] = ()
    ) -> StepOutput:
        """See `arkinfer.runtime.features.Drafting.draft`: drafts lie behind the sequence."""
        ids, drafts = check_drafts(self.executable, self, tokens, parents, taps)
        output = self._run(ids, "all", taps, drafts)
        self._drafts = drafts
        return output

    def commit(self, indices: IntArray) -> None:
        """See `arkinfer.runtime.features.Drafting.commit`."""
        path = check_path(self._drafts, indices)
        self._drafts = None
        if path.tolist() != list(range(len(path))):
            for shape, cache in zip(self.executable.caches, self._caches, strict=True):
                shape.move(cache, self._length + path, self._length)
        self._length += len(path)

    def _run(
        self, ids: IntArray, rows: Rows, taps: tuple[str, ...], drafts: Drafts | None
    ) -> StepOutput:
        """Of checked tokens. They are written where older drafts were."""
        self._drafts = None
        given, wanted = self._inputs(ids, rows)
        return StepOutput(
            *self.executable.run(
                self._arguments, self._caches, given, wanted, self._length, taps=taps, drafts=drafts
            )
        )

    def _inputs(self, ids: IntArray, rows: Rows) -> tuple[Array, Array]:
        """The tokens, and the places of those that want logits, where kernels can read them.

        For a step like the last one, what was made for that one.
        """
        count = len(ids)
        if self._last[:2] != (count, rows):
            start = {"last": count - 1, "all": 0, "none": count}[rows]
            wanted = self._rows[: count - start]
            wanted[:] = range(start, count)
            self._last = count, rows, self._tokens[:count], wanted
        given = self._last[2]
        given[:] = ids
        return given, self._last[3]

    def observe(self, tokens: IntArray, observer: Observer, *, rows: Rows = "all") -> StepOutput:
        """See `arkinfer.runtime.contract.Observed`."""
        ids = check_tokens(self.executable, self, tokens)
        self._drafts = None
        given, wanted = self._inputs(ids, rows)
        logits = self.executable.observe(
            self._arguments, self._caches, given, wanted, self._length, observer
        )
        self._length += len(ids)
        return StepOutput(logits)

    def timed_step(self, tokens: IntArray, rows: Rows) -> tuple[StepOutput, Array]:
        """A step, and the nanoseconds that each of `TvmExecutable.kernels` took."""
        ids = check_tokens(self.executable, self, tokens)
        self._drafts = None
        given, wanted = self._inputs(ids, rows)
        logits, took = self.executable.run_timed(self._arguments, given, wanted, self._length)
        self._length += len(ids)
        return StepOutput(logits), took

    def profiler(self) -> TvmProfiler:
        """See `arkinfer.runtime.contract.Timed`."""
        return TvmProfiler(self)

    def truncate(self, length: int) -> None:
        """Forgets all but the first `length` tokens."""
        check_length(self, length)
        self._length, self._drafts = length, None

    def save(self, file: BinaryIO) -> None:
        """See `arkinfer.runtime.features.Persistent.save`."""
        self.executable.check_open()
        shapes = zip(self.executable.caches, self._caches, strict=True)
        kept = (shape.kept(cache, self._length) for shape, cache in shapes)
        save_state(file, self.executable.form, self._length, kept)

    def restore(self, file: BinaryIO) -> None:
        """See `arkinfer.runtime.features.Persistent.restore`.

        An empty state without drafts has nothing to lose, and is read into at once.
        """
        self.executable.check_open()
        read: list[Array] = []
        empty = self._length == 0 and self._drafts is None

        def room(length: int) -> list[Array]:
            shapes = zip(self.executable.caches, self._caches, strict=True)
            used = (cache[: shape.bytes(length)] for shape, cache in shapes)
            read.extend(used if empty else map(np.empty_like, used))
            return read

        length = restore_state(file, self.executable.form, self._capacity, room)
        if not empty:
            for cache, blocks in zip(self._caches, read, strict=True):
                cache[: len(blocks)] = blocks
        self._length, self._drafts = length, None


class TvmProfiler:
    """See `arkinfer.runtime.contract.Profiler`; to read the clock takes some nanoseconds."""

    def __init__(self, state: TvmState) -> None:
        self._state = state
        self._steps: list[tuple[int, Array, float]] = []

    def step(self, tokens: IntArray, *, rows: Rows = "last") -> StepOutput:
        begin = perf_counter()
        output, took = self._state.timed_step(tokens, rows)
        program = self._state.executable.program(len(tokens))
        self._steps.append((program, took, perf_counter() - begin))
        return output

    def finish(self) -> list[StepTimes]:
        steps = self._steps
        return [StepTimes(self._ops(program, took), seconds) for program, took, seconds in steps]

    def _ops(self, program: int, took: Array) -> tuple[OpTime, ...]:
        kernels = self._state.executable.kernels(program)
        calls = zip(kernels, (took * 1e-9).tolist(), strict=True)
        return tuple(OpTime(kernel, values, seconds) for (kernel, values), seconds in calls)
