"""The checkpoint's weights as an artifact has them: quantized, read back, and dequantized.

So a reference can run the graph as it was traced, and answer as the artifact has to. Knows no
graph and no backend.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from arkinfer.artifact import ArtifactWriter
from arkinfer.compiler.section import part_names
from arkinfer.compiler.weights import BLOCK, Leaves, WeightStore, elements_per_row, rows_of
from arkinfer.ir import DTYPES, QuantizedType, TensorType, Weight
from arkinfer.packing import QuantizedTensor, part_specs

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Place:
    """Where the rows of a leaf are among those of a final weight.

    Attributes:
        final: the weight that nodes read.
        start: its row that is the leaf's first one.
        by: what the leaf was multiplied with on the way.
        cast: the dtypes that it was rounded to on the way, the first one first.
    """

    final: Weight
    start: int = 0
    by: float = 1.0
    cast: tuple[str, ...] = ()


def places(finals: Iterable[Weight], weights: Mapping[str, Weight]) -> dict[str, Place]:
    """Leaf -> where it went, by the rules that the final weights come by; quantized ones count
    more than others that a leaf went into, too."""
    found: dict[str, Place] = {}
    for final in finals:
        for leaf, place in _walk(final, Place(final), weights):
            if leaf not in found or isinstance(final.type, QuantizedType):
                found[leaf] = place
    return found


def _walk(
    weight: Weight, place: Place, weights: Mapping[str, Weight]
) -> Iterator[tuple[str, Place]]:
    source = weight.source
    if source is None:
        yield weight.name, place
        return
    options = dict(source.attributes)
    by, cast_to, start = place.by, place.cast, place.start
    if source.rule == "scale":
        by *= cast(float, options["by"])
    if source.rule == "cast":
        cast_to = (cast(str, options["to"]), *cast_to)
    for name in source.inputs:
        yield from _walk(weights[name], Place(place.final, start, by, cast_to), weights)
        start += rows_of(weights[name])


class Stored:
    """Final weights, from the artifact that is being written if they are there in packing's form,
    else made again."""

    def __init__(self, artifact: ArtifactWriter | None, store: WeightStore) -> None:
        self._artifact, self._store = artifact, store

    def quantized(self, weight: Weight, start: int, stop: int) -> QuantizedTensor:
        """Rows [start, stop)."""
        kind, names = cast(QuantizedType, weight.type), part_names(weight)
        if self._artifact is None or not self._artifact.has_tensor(names["codes"]):
            return cast(QuantizedTensor, self._store.rows(weight, start, stop))
        parts: dict[str, Array] = {}
        for part in part_specs(kind.scheme, kind.shape):
            rows = (0, kind.shape[1]) if part == "order" else (start, stop)
            parts[part] = self._artifact.read_back(names[part], *rows)
        return QuantizedTensor.from_parts(kind.scheme, (stop - start, kind.shape[1]), parts)


class SourceWeights:
    """An `ir.WeightStore` of the checkpoint's own numbers in float32, a block at a time."""

    def __init__(self, leaves: Leaves) -> None:
        self._leaves = leaves

    def rows(self, weight: Weight, start: int, stop: int) -> npt.NDArray[np.float32]:
        return self._leaves.rows(weight.name, start, stop).astype(np.float32)

    def load(self, weight: Weight) -> npt.NDArray[np.float32]:
        shape = cast("tuple[int, ...]", weight.type.shape)
        whole = np.empty(shape, np.float32)
        step = max(1, BLOCK // elements_per_row(weight))
        for start in range(0, shape[0], step):
            stop = min(start + step, shape[0])
            whole[start:stop] = self.rows(weight, start, stop)
        return whole


class EffectiveWeights(SourceWeights):
    """The same, but rounded as the artifact's are.

    Quantized ones are what it has; scales of the graph that went into a weight are divided out.
    Others are the checkpoint's, rounded to what they are stored in: so an error in how they were
    scaled is not repeated here.
    """

    def __init__(self, leaves: Leaves, stored: Stored, where: Mapping[str, Place]) -> None:
        super().__init__(leaves)
        self._stored, self._where = stored, where

    def rows(self, weight: Weight, start: int, stop: int) -> npt.NDArray[np.float32]:
        place = self._where.get(weight.name)
        if place is not None and isinstance(place.final.type, QuantizedType):
            rows = (place.start + start, place.start + stop)
            found = self._stored.quantized(place.final, *rows).dequantize()
            return (found / np.float32(place.by)).astype(np.float32) if place.by != 1 else found
        own = self._leaves.rows(weight.name, start, stop)
        if place is not None and isinstance(place.final.type, TensorType):
            for dtype in place.cast:
                own = own.astype(DTYPES[dtype])
        return own.astype(np.float32)
