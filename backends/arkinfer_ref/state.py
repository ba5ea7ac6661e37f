"""A sequence on the reference backend, and what can be done with it: the meaning of every feature.

Every step makes new caches. Knows no file but a saved state's, and no compiler; like `executor.py`,
it may import `arkinfer.ir`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from arkinfer import ir
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

if TYPE_CHECKING:
    from arkinfer_ref.executor import ReferenceExecutable

Caches: TypeAlias = dict[str, npt.NDArray[Any]]


class ReferenceState:
    """One sequence. Its caches are exactly as long as it is, and a step makes new ones: whatever
    interrupts a step, the old ones are still there. Implements all that `contract` and `features`
    say of states."""

    def __init__(self, executable: ReferenceExecutable, capacity: int) -> None:
        self.executable = executable
        self._caches = {name: _empty(kind) for name, kind in executable.caches.items()}
        self._drafts: Drafts | None = None
        self._drafted: Caches = {}
        self.capacity = capacity

    @property
    def length(self) -> int:
        return len(next(iter(self._caches.values())))

    def step(
        self, tokens: IntArray, *, rows: Rows = "last", taps: tuple[str, ...] = ()
    ) -> StepOutput:
        return self.run(check_tokens(self.executable, self, tokens, taps), rows, None, taps)

    def observe(self, tokens: IntArray, observer: Observer, *, rows: Rows = "all") -> StepOutput:
        names = ir.value_names(self.executable.step)

        def show(node: ir.Node, results: list[npt.NDArray[Any]]) -> None:
            for value, result in zip(node.results, results, strict=True):
                observer(names[value], result)

        return self.run(check_tokens(self.executable, self, tokens), rows, show)

    def profiler(self) -> ReferenceProfiler:
        return ReferenceProfiler(self)

    def run(
        self,
        tokens: IntArray,
        rows: Rows,
        show: ir.Observer | None,
        taps: tuple[str, ...] = (),
    ) -> StepOutput:
        """A step of checked tokens."""
        count = len(tokens)
        wanted = {"last": [count - 1], "all": range(count), "none": []}[rows]
        output, caches = self._run(tokens, wanted, Shown(self.executable, taps, show), None)
        self._become(caches)
        return output

    def draft(
        self, tokens: IntArray, parents: IntArray, *, taps: tuple[str, ...] = ()
    ) -> StepOutput:
        ids, drafts = check_drafts(self.executable, self, tokens, parents, taps)
        tree = ir.Tree(self.length + drafts.depths, drafts.seen)
        shown = Shown(self.executable, taps)
        output, self._drafted = self._run(ids, range(len(ids)), shown, tree)
        self._drafts = drafts
        return output

    def commit(self, indices: IntArray) -> None:
        path = check_path(self._drafts, indices)
        kept = np.concatenate((np.arange(self.length), self.length + path))
        self._become({name: cache[kept] for name, cache in self._drafted.items()})

    def truncate(self, length: int) -> None:
        check_length(self, length)
        self._become({name: cache[:length] for name, cache in self._caches.items()})

    def save(self, file: BinaryIO) -> None:
        self.executable.check_open()
        save_state(file, self.executable.form, self.length, self._caches.values())

    def restore(self, file: BinaryIO) -> None:
        caches: Caches = {}

        def room(length: int) -> list[npt.NDArray[Any]]:
            kinds = self.executable.caches.items()
            caches.update({name: _empty(kind, length) for name, kind in kinds})
            return list(caches.values())

        self.executable.check_open()
        restore_state(file, self.executable.form, self.capacity, room)
        self._become(caches)

    def _run(
        self, tokens: IntArray, wanted: Sequence[int], shown: Shown, tree: ir.Tree | None
    ) -> tuple[StepOutput, Caches]:
        """What a step gives, and the caches after it."""
        executable = self.executable
        inputs = {"tokens": tokens, "rows": np.array(wanted, np.int64), **self._caches}
        outputs = ir.run_function(
            executable.step, inputs, executable.weights, observe=shown, tree=tree
        )
        caches = {name: outputs[name] for name in self._caches}
        return StepOutput(outputs["logits"], shown.taps), caches

    def _become(self, caches: Caches) -> None:
        self._caches, self._drafts, self._drafted = caches, None, {}


class Shown:
    """Looks at what the nodes of a step give, and keeps the taps that were asked for.

    Attributes:
        taps: hidden states by name, float32 [tokens, hidden].
    """

    def __init__(
        self,
        executable: ReferenceExecutable,
        taps: Sequence[str] = (),
        show: ir.Observer | None = None,
    ) -> None:
        self.taps: dict[str, npt.NDArray[np.float32]] = {}
        self._weights, self._show = executable.weights, show
        self._wanted: list[tuple[str, ir.Value, ir.Node | None]] = []
        if executable.stream is not None:
            self._wanted = [(tap, *executable.stream.place(tap)) for tap in taps]

    def __call__(self, node: ir.Node, results: list[npt.NDArray[Any]]) -> None:
        if self._show is not None:
            self._show(node, results)
        for tap, value, norm in self._wanted:
            if value is node.results[0]:
                self.taps[tap] = self._normed(norm, results[0]) if norm else results[0].copy()

    def _normed(self, norm: ir.Node, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Of all tokens, where the step may norm the wanted rows alone."""
        operands = [rows, ir.load_wide(norm.weights[0], self._weights)]
        return ir.run_op(norm.op, operands, norm.attributes, {}, [norm.result.type])[0]


class ReferenceProfiler:
    """Reads the clock after every op; see `arkinfer.runtime.contract.Profiler`."""

    def __init__(self, state: ReferenceState) -> None:
        self._state = state
        self._names = ir.value_names(state.executable.step)
        self._steps: list[StepTimes] = []

    def step(self, tokens: IntArray, *, rows: Rows = "last") -> StepOutput:
        ops: list[OpTime] = []
        last = begin = perf_counter()

        def note(node: ir.Node, results: list[npt.NDArray[Any]]) -> None:
            nonlocal last
            now = perf_counter()
            values = tuple(self._names[value] for value in node.results)
            ops.append(OpTime(node.op, values, now - last))
            last = now

        ids = check_tokens(self._state.executable, self._state, tokens)
        output = self._state.run(ids, rows, note)
        self._steps.append(StepTimes(tuple(ops), perf_counter() - begin))
        return output

    def finish(self) -> list[StepTimes]:
        return self._steps


def row_bytes(cache: ir.CacheType) -> int:
    """Of one token."""
    shape = cast("tuple[int, ...]", cache.shape[1:])
    return math.prod(shape) * ir.DTYPES[cache.dtype].itemsize


def _empty(kind: ir.CacheType, length: int = 0) -> npt.NDArray[Any]:
    shape = (length, *cast("tuple[int, ...]", kind.shape[1:]))
    return np.empty(shape, ir.DTYPES[kind.dtype])
