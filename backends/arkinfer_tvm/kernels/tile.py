"""A tile of a product in integers: the sums of some rows of x and some blocks of a matrix.

The order in which numbers are added is settled here, for all shapes of tiles. Knows not where the
codes come from, nor where float sums are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TypeAlias

from tvm.script.ir_builder import tirx as build

from arkinfer_tvm.kernels.common import Buffer, Expr, bind, i64, load, spread, store
from arkinfer_tvm.kernels.quantize import Inputs
from arkinfer_tvm.kernels.quantized import Reader
from arkinfer_tvm.layout import LANES

WORD = 4
"""Inputs that one `dot` takes of each channel."""

Where: TypeAlias = Callable[[int, int], tuple[Buffer, Expr]]
"""Where the float sums of a row and a block of a tile are: a buffer, and an index."""


@dataclass(frozen=True)
class Tile:
    """Rows [row, row + rows) of x and blocks [block, block + blocks) of a slab.

    Attributes:
        p: has `codes`, `scales` and `sums` as `Quantize` made them, the codes as int32.
    """

    reader: Reader
    p: SimpleNamespace
    inputs: Inputs
    row: Expr
    rows: int
    block: Expr
    blocks: int

    def begin(self, record: Expr, place: Expr) -> list[list[Buffer]]:
        """Integer sums of share `place` by row and block, with what the zero points take away."""
        sums: list[list[Buffer]] = []
        for i in range(self.rows):
            total = bind(load(self.p.sums, self._scale(i, place)))
            sums.append([build.alloc_buffer((LANES,), "int32") for _ in range(self.blocks)])
            for b, buffer in enumerate(sums[-1]):
                begin = self.reader.without_zero(record, self.block + i64(b), total)
                store(buffer, 0, begin, LANES)
        return sums

    def words(self, place: Expr) -> Expr:
        """Where the first row's activations of a share begin, in words."""
        stride = self.inputs.stride // WORD
        return bind(self.row * i64(stride) + place * i64(self.inputs.share // WORD))

    def dot(self, sums: list[list[Buffer]], codes: Sequence[Expr], word: Expr) -> None:
        """Adds the products of four inputs.

        Args:
            codes: uint8x64 of each block.
            word: the first row's activations, counted from `words` on.
        """
        for i, totals in enumerate(sums):
            at = word + i64(i * (self.inputs.stride // WORD))
            four = bind(build.reinterpret("int8x64", spread(load(self.p.codes, at), LANES)))
            for total, some in zip(totals, codes, strict=True):
                store(total, 0, self.reader.dot(load(total, 0, LANES), some, four), LANES)

    def add(
        self, sums: list[list[Buffer]], record: Expr, place: Expr, totals: Where, parts: Where
    ) -> None:
        """Adds the sums of a share to those of its group: where a group has several, to `parts`."""
        fma = self.reader.isa.fma
        stream = self.reader.stream
        for b in range(self.blocks):
            block = bind(self.block + i64(b))
            scale = self.reader.scale(record, block) if stream.shares == 1 else None
            for i, row_sums in enumerate(sums):
                index = bind(self._scale(i, place))
                step = spread(load(self.p.scales, index), LANES)
                value = build.cast(load(row_sums[b], 0, LANES), "float32x16")
                if scale is None:
                    buffer, at = parts(i, b)
                    store(buffer, at, fma(value, step, load(buffer, at, LANES)), LANES)
                else:
                    buffer, at = totals(i, b)
                    store(buffer, at, fma(value * step, scale, load(buffer, at, LANES)), LANES)
                if stream.offset == "min":
                    self._add_minimum(record, block, index, *totals(i, b))

    def add_parts(self, record: Expr, totals: Where, parts: Where) -> None:
        """Adds the sums of a group that has several shares."""
        for b in range(self.blocks):
            scale = self.reader.scale(record, bind(self.block + i64(b)))
            for i in range(self.rows):
                part, where = parts(i, b)
                buffer, at = totals(i, b)
                whole = load(part, where, LANES)
                total = self.reader.isa.fma(whole, scale, load(buffer, at, LANES))
                store(buffer, at, total, LANES)

    def _scale(self, row: int, place: Expr) -> Expr:
        return (self.row + i64(row)) * i64(self.inputs.scales) + place

    def _add_minimum(
        self, record: Expr, block: Expr, index: Expr, buffer: Buffer, at: Expr
    ) -> None:
        """Adds what the minima give: each of them times the sum of the activations."""
        total = build.cast(load(self.p.sums, index), "float32") * load(self.p.scales, index)
        least = self.reader.minimum(record, block)
        after = self.reader.isa.fma(least, spread(bind(total), LANES), load(buffer, at, LANES))
        store(buffer, at, after, LANES)
