"""The stages of a build: torch against the traced graph, then each pass against what it was given.

Knows no backend and no file. Each stage yields its findings in order of execution, so that
whoever reads them can stop at the first that is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from arkinfer import ir
from arkinfer.align.capture import TorchRun
from arkinfer.align.compare import compare
from arkinfer.align.follow import Follow
from arkinfer.align.report import Finding
from arkinfer.align.snapshot import Line, Partner, Snapshot, partners
from arkinfer.align.tolerance import SAME, TORCH, Tolerance, of_pass
from arkinfer.align.weights import CheckedWeights
from arkinfer.ir import DTYPES, CacheType, Type, Value
from arkinfer.ir.types import evaluate

Array = npt.NDArray[Any]

EXACT = Tolerance(0.0, 0.0, "the same numbers")


def first_inputs(snapshot: Snapshot, tokens: Array) -> dict[Value, Array]:
    """The inputs of a step over all tokens of an empty sequence that wants all rows."""
    given: dict[Value, Array] = {}
    for name, value in snapshot.inputs.items():
        if name == "tokens":
            given[value] = tokens
        elif name == "rows":
            given[value] = np.arange(len(tokens))
        else:
            kind = snapshot.kinds[name]
            shape = tuple(evaluate(d, {"S": 0}) for d in kind.shape)
            given[value] = np.zeros(shape, DTYPES[_dtype(kind)])
    return given


@dataclass
class Build:
    """What the stages of a build hand on.

    Attributes:
        values: of the latest snapshot, each as torch has it where torch shows it.
        symbols: sizes of T, R and S.
        lossy: what nodes make of these values that are not meant to give the next of them: their
            weights were quantized, or rounded. A later pass is held to that.
    """

    values: dict[Value, Array]
    symbols: Mapping[str, int]
    lossy: dict[Value, Array] = field(default_factory=dict[Value, Array])

    def torch(self, run: TorchRun, traced: Snapshot, store: ir.WeightStore) -> Iterator[Finding]:
        """Every value that a torch module takes or gives, computed by the traced graph."""
        shown = run.values(traced)
        follow = Follow(traced, {**self.values, **shown}, store, self.symbols)
        for index, (line, computed) in enumerate(follow.run()):
            for value, array in zip(line.results, computed, strict=True):
                if value in shown:
                    yield _finding(traced, index, line, array, shown[value], TORCH)
        self.values = follow.values

    def step(self, before: Snapshot, after: Snapshot, store: CheckedWeights) -> Iterator[Finding]:
        """What a pass made, computed from the values that stood there before it."""
        stands_for = partners(before, after)
        kinds, old_kinds = after.types(), before.types()
        retyped = {
            value
            for value, olds in stands_for.items()
            if _dtype(kinds[value]) != _dtype(old_kinds[olds[0].value])
        }
        given = {
            value: _scaled(self.values, olds[0])
            for value, olds in stands_for.items()
            if value not in retyped
        }
        expected = {
            value: _scaled(self.lossy if olds[0].value in self.lossy else self.values, olds[0])
            for value, olds in stands_for.items()
        }
        empty = first_inputs(after, np.empty(0, np.int64))
        for value in after.inputs.values():
            if value not in stands_for or value in retyped:  # a cache: new, or of another type
                given[value] = empty[value]
        lossy = {v: expected[v] for v, olds in stands_for.items() if olds[0].value in self.lossy}
        follow = Follow(after, given, store, self.symbols)
        makers = before.producers()
        changed = {line for line in after.lines if not _unchanged(line, makers, stands_for)}
        changed |= {line for line in after.lines if not retyped.isdisjoint(line.values)}
        places = {line: index for index, line in enumerate(after.lines)}
        for line, computed in follow.run(lambda line: line in changed):
            for weight in line.weights:
                if weight.name in store.bad:
                    yield _bad_weight(after, places[line], line, store.bad.pop(weight.name))
            for value, array in zip(line.results, computed, strict=True):
                if value not in expected:
                    continue
                old = makers.get(stands_for[value][0].value)
                rounded = next((_dtype(kinds[v]) for v in line.values if v in retyped), "")
                tolerance = of_pass(old, line, rounded)
                found = _widened(line, computed, store) if value in retyped else array
                if value in lossy or tolerance is not SAME:
                    lossy[value] = array
                yield _finding(after, places[line], line, found, expected[value], tolerance, old)
        for line in after.lines:  # the same numbers in another shape lost as much
            if line.op == "tensor.reshape" and line.operands[0] in lossy:
                (value,) = line.results
                lossy[value] = lossy[line.operands[0]].reshape(follow.values[value].shape)
        yield from self._merged(before, stands_for, follow.values)
        yield from self._outputs(before, after, stands_for, follow.values)
        self.values = {value: follow.values[value] for value in kinds}
        self.lossy = lossy

    def _merged(
        self,
        before: Snapshot,
        stands_for: Mapping[Value, list[Partner]],
        values: Mapping[Value, Array],
    ) -> Iterator[Finding]:
        """Values that another one stands for from now on, which was there before."""
        makers = before.producers()
        places = {line: index for index, line in enumerate(before.lines)}
        for value, (_, *others) in stands_for.items():
            for other in others:
                line = makers.get(other.value)
                if line is not None:
                    tolerance = of_pass(line, line)
                    yield _finding(
                        before,
                        places[line],
                        line,
                        values[value],
                        _scaled(self.values, other),
                        tolerance,
                    )

    def _outputs(
        self,
        before: Snapshot,
        after: Snapshot,
        stands_for: Mapping[Value, list[Partner]],
        values: Mapping[Value, Array],
    ) -> Iterator[Finding]:
        """Results of the function that are no longer the values they were."""
        makers = after.producers()
        places = {line: index for index, line in enumerate(after.lines)}
        for name, old in before.outputs.items():
            new = after.outputs[name]
            if Partner(old) not in stands_for.get(new, ()) and new in makers:
                line = makers[new]
                yield _finding(after, places[line], line, values[new], self.values[old], SAME)


def _scaled(values: Mapping[Value, Array], partner: Partner) -> Array:
    array = values[partner.value]
    return array if partner.factor == 1 else array * array.dtype.type(partner.factor)


def _unchanged(
    line: Line, makers: Mapping[Value, Line], stands_for: Mapping[Value, list[Partner]]
) -> bool:
    """Does a line compute what it, or what it is a copy of, computed before, of the same?"""
    partner = next(iter(stands_for.get(line.results[0], ())), None)
    old = makers.get(partner.value) if partner is not None and partner.factor == 1 else None
    if old is None or (old.op, len(old.operands)) != (line.op, len(line.operands)):
        return False
    if old.types != line.types or repr(old.attributes) != repr(line.attributes):
        return False
    for a, b in zip(old.operands, line.operands, strict=True):
        if isinstance(b, Value):
            if Partner(a) not in stands_for.get(b, ()):  # pyright: ignore[reportArgumentType] -- a weight is in no list
                return False
        elif a != b:
            return False
    return True


def _finding(
    snapshot: Snapshot,
    index: int,
    line: Line,
    found: Array,
    expected: Array,
    tolerance: Tolerance,
    old: Line | None = None,
) -> Finding:
    depth = index / max(1, len(snapshot.lines) - 1)
    what = "" if old is None or old.text == line.text else f"in the place of {old.text}"
    difference = compare(found, expected)
    return Finding(line.text, line.op, line.loc, depth, difference, tolerance, what=what)


def _bad_weight(snapshot: Snapshot, index: int, line: Line, bad: Any) -> Finding:
    depth = index / max(1, len(snapshot.lines) - 1)
    difference = compare(bad.found, bad.expected)
    return Finding(
        line.text, line.op, line.loc, depth, difference, EXACT,
        what=f"{bad} is further from the checkpoint than plain rounding would be",
    )  # fmt: skip


def _widened(line: Line, computed: list[Array], store: ir.WeightStore) -> Array:
    """What a cache of another type holds, as numbers: those of an int8 one times its scales, which
    are a weight or a result."""
    codes, *scales = computed
    if not scales and not line.weights:
        return codes.astype(np.float32)
    (scale,) = scales or [ir.load_wide(weight, store) for weight in line.weights]
    assert isinstance(scale, np.ndarray)
    return codes * scale


def _dtype(kind: Type) -> str:
    return kind.dtype if isinstance(kind, ir.TensorType | CacheType) else ""
