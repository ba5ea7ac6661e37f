"""Kernels that multiply by a matrix: x W^T, with W dense or in packing's canonical form.

Every output is computed by one thread in one order, so that the thread count cannot change it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

from tvm.script.ir_builder import tirx as build

from arkinfer_tvm.isa import Isa
from arkinfer_tvm.kernels.common import (
    Expr,
    Kernel,
    RowKernel,
    Strided,
    accumulator,
    bind,
    horizontal_sum,
    i64,
    jobs,
    load,
    loop,
    store,
    stored,
    widen,
)
from arkinfer_tvm.kernels.quantized import Layout
from arkinfer_tvm.program import Dimension

TILE = 8
"""Rows of x that share one pass over a row of the matrix."""
BLOCK = 32
"""Rows of the matrix that stay in the cache while tiles of x pass by."""


def _tiles(
    first_job: Expr, last_job: Expr, count: Expr, outputs: int,
    tile: Callable[[Expr, Expr, int], None],
) -> None:  # fmt: skip
    """tile(n, t, rows) for every output n and all rows of x, eight at a time, then one."""
    full = bind(count // i64(TILE))
    with jobs(first_job, last_job) as block:
        first = bind(block * i64(BLOCK))
        inside = bind(build.min(i64(BLOCK), i64(outputs) - first))
        with loop(full) as several, loop(inside) as n:
            tile(bind(first + n), bind(several * i64(TILE)), TILE)
        with loop(count - full * i64(TILE)) as rest, loop(inside) as n:
            tile(bind(first + n), bind(full * i64(TILE) + rest), 1)


@dataclass(frozen=True)
class Linear(Kernel):
    """out[t, n] = sum over k of x[t, k] * weight[n, k]."""

    family: ClassVar[str] = "linear"
    x: Strided
    outputs: int
    weight: str

    def parameters(self) -> dict[str, str]:
        return {
            "x": "float32",
            "weight": stored(self.weight),
            "out": "float32",
            "count": "int64",
        }

    def jobs(self, rows: Dimension) -> Dimension:
        return Dimension((), -(-self.outputs // BLOCK))

    def emit(self, isa: Isa, p: SimpleNamespace, first: Expr, last: Expr) -> None:
        width, lanes = self.x.width, self.x.lanes

        def tile(n: Expr, t: Expr, rows: int) -> None:
            sums = [accumulator(lanes) for _ in range(rows)]
            with loop(width // lanes) as i:
                at = bind(i * i64(lanes))
                raw = load(p.weight, n * i64(width) + at, lanes)
                weight = bind(widen(raw, self.weight, lanes))
                for row, total in enumerate(sums):
                    x = load(p.x, self.x.at(t + i64(row), at), lanes)
                    store(total, 0, load(total, 0, lanes) + x * weight, lanes)
            for row, total in enumerate(sums):
                out = (t + i64(row)) * i64(self.outputs) + n
                store(p.out, out, horizontal_sum(load(total, 0, lanes), lanes))

        _tiles(first, last, bind(load(p.count, 0)), self.outputs, tile)


@dataclass(frozen=True)
class Arrange(RowKernel):
    """Copies x into the order in which `QuantLinear` meets the codes.

    Code `place` of unit `lane` belongs to input lane * planes + place of its block, and a vector
    holds the codes of one place: so their inputs are made neighbours. The codes stay as they are
    in the file, and other backends may share them.
    """

    family: ClassVar[str] = "arrange"
    x: Strided
    planes: int
    lanes: int
    order: bool

    def parameters(self) -> dict[str, str]:
        order = {"order": "int32"} if self.order else {}
        return {"x": "float32", **order, "out": "float32"}

    def row(self, isa: Isa, p: SimpleNamespace, t: Expr) -> None:
        block = self.planes * self.lanes
        with loop(self.x.width // block) as i, loop(self.planes) as place:
            with loop(self.lanes) as lane:
                k = bind(i * i64(block) + lane * i64(self.planes) + place)
                if self.order:
                    k = build.cast(load(p.order, k), "int64")
                out = i * i64(block) + place * i64(self.lanes) + lane
                store(p.out, t * i64(self.x.width) + out, load(p.x, self.x.at(t, k)))


@dataclass(frozen=True)
class QuantLinear(Kernel):
    """out[t, n] = sum over k of x[t, k] * dequantize(weight)[n, k], x as `Arrange` leaves it."""

    family: ClassVar[str] = "quant_linear"
    layout: Layout
    outputs: int

    def parameters(self) -> dict[str, str]:
        parts = {n: kind for n, kind in self.layout.parameters().items() if n != "order"}
        return {"x": "float32", **parts, "out": "float32", "count": "int64"}

    def jobs(self, rows: Dimension) -> Dimension:
        return Dimension((), -(-self.outputs // BLOCK))

    def emit(self, isa: Isa, p: SimpleNamespace, first: Expr, last: Expr) -> None:
        layout = self.layout
        lanes, planes = layout.lanes, layout.planes

        def tile(n: Expr, t: Expr, rows: int) -> None:
            sums = [[accumulator(lanes) for _ in range(planes)] for _ in range(rows)]
            with loop(layout.groups) as g:
                terms = layout.terms(p, n, g)
                start = layout.start(n, g)
                with loop(layout.group // (lanes * planes)) as i:
                    packed = layout.packed(p, start + i * i64(lanes * layout.unit))
                    first = bind(g * i64(layout.group) + i * i64(lanes * planes))
                    for place in range(planes):
                        weight = layout.value(layout.plane(packed, place), terms, lanes)
                        for row in range(rows):
                            at = (t + i64(row)) * i64(layout.columns) + first
                            x = load(p.x, at + i64(place * lanes), lanes)
                            total = sums[row][place]
                            store(total, 0, load(total, 0, lanes) + x * weight, lanes)
            for row, parts in enumerate(sums):
                whole = load(parts[0], 0, lanes)
                for part in parts[1:]:
                    whole = whole + load(part, 0, lanes)
                out = (t + i64(row)) * i64(self.outputs) + n
                store(p.out, out, horizontal_sum(whole, lanes))

        _tiles(first, last, bind(load(p.count, 0)), self.outputs, tile)
