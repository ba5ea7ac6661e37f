"""Two executables side by side: the same op of the same torch path in both.

Their graphs may differ in what backends want rewritten and in how weights are stored; both begin
with the graph that `ir.txt` holds, and values belong together by what they stand for there. Knows
no backend by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy.typing as npt

from arkinfer import ir
from arkinfer.align.compare import compare, relative_error
from arkinfer.align.executed import Executed, Step
from arkinfer.align.follow import Follow
from arkinfer.align.report import Finding
from arkinfer.align.snapshot import Line, Partner, Snapshot, partners
from arkinfer.align.stored import parsed
from arkinfer.align.tolerance import Tolerance, cache_scales, carried, of_pair
from arkinfer.artifact import Artifact, Section
from arkinfer.artifact.manifest import kv_scales
from arkinfer.backend import compiler
from arkinfer.compiler.prepare import cache_form, legalize, with_caches
from arkinfer.errors import ArtifactError
from arkinfer.ir import Value
from arkinfer.targets import load_target

Array = npt.NDArray[Any]

Place = tuple[str, str, int, int]
"""Torch path, op, which of those with the same path and op, and which of its results."""


@dataclass
class Side:
    """One executable: its graph and weights, its steps as it ran them, and where it stands."""

    executed: Executed
    steps: list[Step]
    artifact: Artifact
    section: Section


def places(
    artifact: Artifact, section: Section, graph: Snapshot
) -> dict[Value, tuple[Place, float]]:
    """Where each value of a section's graph comes from: its place in `ir.txt`, and its factor.

    Raises:
        ArtifactError: the section's graph does not come from `ir.txt` by this arkinfer's passes.
    """
    fused = parsed(artifact, "ir.txt")
    snapshots: list[Snapshot] = [Snapshot.of("stored", fused)]

    def watch(step: str, module: ir.Module) -> None:
        snapshots.append(Snapshot.of(step, module))

    facts = cast("dict[str, Any]", artifact.manifest)
    kept = cache_form(graph.module)
    fused = with_caches(fused, kept, kv_scales(artifact.manifest), None, watch)
    target = load_target(facts["target"]["name"])
    made = legalize(fused, compiler(section.backend), target, None, watch).module
    if made != graph.module:
        raise ArtifactError(
            f'The graph of "{section.backend}" in "{artifact.path}" is not the one that its '
            "ir.txt leads to",
            "Another version of arkinfer built it, or one that was changed",
            "Align it with its model first",
        )
    known = _places(snapshots[0])
    found = {value: (place, 1.0) for value, place in known.items()}
    for before, after in pairwise(snapshots):
        found = _next(found, partners(before, after))
    twins = zip(snapshots[-1].lines, graph.lines, strict=True)
    return {
        new: found[old]
        for mine, theirs in twins
        for old, new in zip(mine.results, theirs.results, strict=True)
        if old in found
    }


def _places(snapshot: Snapshot) -> dict[Value, Place]:
    counts: dict[tuple[str, str], int] = {}
    found: dict[Value, Place] = {}
    for line in snapshot.lines:
        op = line.op.replace("quant.", "nn.")
        number = counts.get((line.loc, op), 0)
        counts[line.loc, op] = number + 1
        found |= {value: (line.loc, op, number, i) for i, value in enumerate(line.results)}
    return found


def _next(
    found: dict[Value, tuple[Place, float]], stands_for: dict[Value, list[Partner]]
) -> dict[Value, tuple[Place, float]]:
    following: dict[Value, tuple[Place, float]] = {}
    for value, (old, *_) in stands_for.items():
        if old.value in found:
            place, factor = found[old.value]
            following[value] = (place, factor * old.factor)
    return following


def compare_sides(ours: Side, theirs: Side) -> Iterator[Finding]:
    """What our graph and weights make of the other's operands, beside what the other has.

    `end_to_end` is how far the two executables are apart at that value. What the other computes
    inside of a kernel only is allowed what it may cost where it comes out.
    """
    pairs = _Pairs.of(ours, theirs)
    graph = ours.executed.graph
    last = max(1, len(graph.lines) - 1)
    caches: dict[str, Array] = {}
    for step, other in zip(ours.steps, theirs.steps, strict=True):
        shown = pairs.values(other)
        given = {**ours.executed.inputs(step, caches), **shown}
        follow = Follow(graph, given, ours.executed.store, step.symbols)
        inside: dict[Value, Tolerance] = {}
        for index, (line, computed) in enumerate(follow.run()):
            hidden = [inside[operand] for operand in line.values if operand in inside]
            for value, array in zip(line.results, computed, strict=True):
                twin = pairs.lines.get(value, line)
                tolerance = carried(of_pair(line, twin, theirs.executed.backend), hidden)
                if value not in shown:
                    inside[value] = tolerance
                    continue
                mine = step.shown.get(graph.names[value])
                yield Finding(
                    line.text, line.op, line.loc, index / last, compare(array, shown[value]),
                    tolerance,
                    None if mine is None else relative_error(mine, shown[value]),
                    what=f"there: {twin.text}",
                    step=step.name,
                )  # fmt: skip
        caches = ours.executed.outputs(follow.values)


@dataclass
class _Pairs:
    """Values of our graph that the other has as well.

    Attributes:
        lines: of the other's graph, by our values.
        names: what the other shows them as.
        factors: what ours are of theirs.
    """

    lines: dict[Value, Line]
    names: dict[Value, str]
    factors: dict[Value, float]

    @classmethod
    def of(cls, ours: Side, theirs: Side) -> _Pairs:
        mine, other = ours.executed.graph, theirs.executed.graph
        placed = places(theirs.artifact, theirs.section, other)
        there = {place: (value, factor) for value, (place, factor) in placed.items()}
        makers, kinds, other_kinds = other.producers(), mine.types(), other.types()
        own_makers = mine.producers()
        pairs = cls({}, {}, {})
        for value, (place, factor) in places(ours.artifact, ours.section, mine).items():
            twin, their_factor = there.get(place, (None, 1.0))
            if twin is None or kinds[value] != other_kinds[twin]:
                continue  # a cache of another type, or an op that the other does not have
            forms = {cache_scales(line) for line in (own_makers[value], makers[twin])}
            if isinstance(kinds[value], ir.CacheType) and len(forms) > 1:
                continue  # codes of other scales
            pairs.lines[value] = makers[twin]
            pairs.names[value] = other.names[twin]
            pairs.factors[value] = factor / their_factor
        return pairs

    def values(self, step: Step) -> dict[Value, Array]:
        """What the other has for them, as ours would be."""
        found: dict[Value, Array] = {}
        for value, name in self.names.items():
            if name in step.shown:
                array, factor = step.shown[name], self.factors[value]
                found[value] = array if factor == 1 else array * array.dtype.type(factor)
        return found
