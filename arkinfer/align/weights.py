"""Quantized weights, group by group: the method against plain rounding, the file against both.

Knows schemes and stores, and no stage. Nothing holds more than one matrix.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from arkinfer.compiler.weights import WeightStore
from arkinfer.ir import QuantizedType, Weight
from arkinfer.packing import QuantizedTensor, Scheme

Array = npt.NDArray[Any]

SLACK = 1e-3
"""By how much the squared error of a group may exceed that of plain rounding: float32 arithmetic.

Round-to-nearest tries the whole range first and keeps the best it finds, so that no group of it
can be worse than plain rounding."""

NEARLY = 1e-3
"""In steps of a group: how much further a stored number may be from the original than the one
that is computed here. At a tie two processors may round differently, and both are right."""

KEPT = 256 << 20
"""Bytes of quantized matrices that are kept for the next node, which may share them."""


@dataclass(frozen=True)
class BadGroup:
    """One group of one row of a matrix that is not as it should be.

    Attributes:
        weight: its symbol.
        row, group: where.
        columns: the inputs [start, stop) that the group covers, in stored order.
        expected, found: float32 [columns].
        count: how many groups of the matrix are wrong in all.
    """

    weight: str
    row: int
    group: int
    columns: tuple[int, int]
    expected: Array
    found: Array
    count: int

    def __str__(self) -> str:
        first, stop = self.columns
        more = f"; {self.count:,} groups of it are wrong" if self.count > 1 else ""
        return (
            f"@{self.weight}, row {self.row}, group {self.group} "
            f"(columns {first} to {stop - 1}){more}"
        )


class CheckedWeights:
    """The store of the build; looks at every quantized matrix that it gives.

    Attributes:
        bad: by symbol, of matrices with a group that plain rounding would have done better.
        digests: (symbol, first row) -> SHA-256 of a block's parts, for the file to be held to.
    """

    def __init__(self, weights: Mapping[str, Weight], store: WeightStore) -> None:
        self.bad: dict[str, BadGroup] = {}
        self.digests: dict[tuple[str, int], bytes] = {}
        self.weights = weights
        self.store = store
        self._kept: OrderedDict[str, QuantizedTensor] = OrderedDict()

    def use(self, weights: Mapping[str, Weight], store: WeightStore) -> None:
        """Goes on with the symbols of the next step of the build."""
        self.weights, self.store = weights, store

    def load(self, weight: Weight) -> Array | QuantizedTensor:
        """The whole weight; see `WeightStore.load`."""
        if not isinstance(weight.type, QuantizedType):
            return self.store.load(weight)
        if weight.name not in self._kept:
            self._kept[weight.name] = self._quantized(weight)
        self._kept.move_to_end(weight.name)
        while len(self._kept) > 1 and sum(map(_nbytes, self._kept.values())) > KEPT:
            self._kept.popitem(last=False)
        return self._kept[weight.name]

    def starts(self, weight: Weight) -> list[int]:
        """The first rows of the blocks whose digests are known; looks at the matrix if need be."""
        if (weight.name, 0) not in self.digests:
            self.load(weight)
        return sorted(start for name, start in self.digests if name == weight.name)

    def _quantized(self, weight: Weight) -> QuantizedTensor:
        blocks: list[QuantizedTensor] = []
        start = 0
        for block in self.store.blocks(weight):
            assert isinstance(block, QuantizedTensor)
            blocks.append(block)
            self.digests[weight.name, start] = digest(block)
            original = self.original(weight, start, start + block.shape[0])
            if original is not None:
                wrong = worse_than_plain(block, original)
                self._note(weight.name, wrong, start, block, original)
            start += block.shape[0]
        return QuantizedTensor.concatenate(blocks)

    def original(self, weight: Weight, start: int, stop: int) -> Array | None:
        """The rows that a weight was quantized from, float32; None: they are not known."""
        source = weight.source
        if source is None or source.rule != "rtn":
            return None
        rows = self.store.rows(self.weights[source.inputs[0]], start, stop)
        return cast(Array, rows).astype(np.float32)

    def _note(
        self, name: str, wrong: Array, start: int, block: QuantizedTensor, original: Array
    ) -> None:
        found = bad_group(name, wrong, start, original, block.dequantize())
        known = self.bad.get(name)
        if found is not None and known is None:
            self.bad[name] = found


def digest(block: QuantizedTensor) -> bytes:
    """SHA-256 over the parts."""
    hashed = hashlib.sha256()
    for part in block.parts().values():
        hashed.update(np.ascontiguousarray(part).view(np.uint8).data)
    return hashed.digest()


def worse_than_plain(block: QuantizedTensor, original: Array) -> Array:
    """Groups whose squared error exceeds that of rounding to the nearest of equal steps over the
    group's own range: bool [N, K / g]; of schemes that no method here makes, none."""
    scheme = block.scheme
    shape = block.scale.shape
    if scheme.act_order or scheme.offset == "min":
        return np.zeros(shape, np.bool_)
    w = original.reshape(*shape, -1)
    apart = block.dequantize().reshape(w.shape) - w
    plain = _plain(w, scheme) - w
    error, allowed = np.einsum("ngk,ngk->ng", apart, apart), np.einsum("ngk,ngk->ng", plain, plain)
    rounding = np.float32(1e-12) * np.einsum("ngk,ngk->ng", w, w)
    return ~(error <= allowed * np.float32(1 + SLACK) + rounding)  # true for NaN, too


def _plain(w: Array, scheme: Scheme) -> Array:
    """w [n, groups, g], rounded."""
    if scheme.offset == "zero":
        top = np.float32((1 << scheme.bits) - 1)
        low, high = (np.minimum(w.min(-1), 0), np.maximum(w.max(-1), 0))
        step = _nonzero((high - low) / top)[..., None]
        zero = np.clip(np.rint(-low[..., None] / step), 0, top)
        return (np.clip(np.rint(w / step) + zero, 0, top) - zero) * step
    high = scheme.midpoint - 1
    step = _nonzero(np.abs(w).max(-1) / np.float32(high))[..., None]
    return np.clip(np.rint(w / step), -high, high) * step


def _nonzero(step: Array) -> Array:
    return np.where(step > 0, step, np.float32(1))


def further_away(stored: QuantizedTensor, computed: QuantizedTensor, original: Array) -> Array:
    """Groups of the file that hold a number which is further from the original than what is
    computed here: bool [N, K / g]."""
    shape = computed.scale.shape
    theirs, ours = (
        np.abs(q.dequantize() - original).reshape(*shape, -1) for q in (stored, computed)
    )
    allowed = np.float32(NEARLY) * np.abs(computed.scale.astype(np.float32))[..., None]
    return ~(theirs <= ours + allowed).all(axis=-1)


def bad_group(
    name: str, wrong: Array, start: int, expected: Array, found: Array
) -> BadGroup | None:
    """The first group that is wrong; None: none is.

    Args:
        name: the symbol.
        wrong: bool [n, groups].
        start: the first row of these within the matrix.
        expected, found: float32 [n, K].
    """
    places = np.argwhere(wrong)
    if not len(places):
        return None
    row, group = (int(i) for i in places[0])
    size = expected.shape[1] // wrong.shape[1]
    columns = (group * size, (group + 1) * size)
    part = slice(*columns)
    return BadGroup(
        name, start + row, group, columns, expected[row, part], found[row, part], len(places)
    )


def _nbytes(tensor: QuantizedTensor) -> int:
    return sum(part.nbytes for part in tensor.parts().values())
