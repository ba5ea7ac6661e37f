"""Rotary positions: a table of angles, made once a step, and the rotation of heads by it.

Su et al. 2021; pairs are (i, i + size / 2). Knows no cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

from tvm.script.ir_builder import tirx as build

from arkinfer_tvm.isa import Isa
from arkinfer_tvm.kernels.common import (
    Expr,
    RowKernel,
    Strided,
    bind,
    constant,
    i64,
    lanes_of,
    load,
    loop,
    store,
)


@dataclass(frozen=True)
class Angles(RowKernel):
    """table[t] = cos, then sin, of positions[t] * frequency[i], times `factor`: [T, 2, half]."""

    family: ClassVar[str] = "angles"
    written: ClassVar[tuple[str, ...]] = ("table",)
    half: int
    factor: float

    def parameters(self) -> dict[str, str]:
        return {"positions": "int64", "frequency": "float32", "table": "float32"}

    def row(self, isa: Isa, p: SimpleNamespace, t: Expr) -> None:
        position = bind(build.cast(load(p.positions, t), "float32"))
        with loop(self.half) as i:
            angle = bind(position * load(p.frequency, i))
            at = bind(t * i64(2 * self.half) + i)
            store(p.table, at, build.cos(angle) * constant(self.factor))
            store(p.table, at + i64(self.half), build.sin(angle) * constant(self.factor))


@dataclass(frozen=True)
class Rope(RowKernel):
    """Turns the pairs of every head by the angles of `table`."""

    family: ClassVar[str] = "rope"
    x: Strided
    heads: int
    size: int

    def parameters(self) -> dict[str, str]:
        return {"x": "float32", "table": "float32", "out": "float32"}

    def row(self, isa: Isa, p: SimpleNamespace, t: Expr) -> None:
        half = self.size // 2
        lanes = lanes_of(half, self.x.stride, self.x.offset)
        with loop(half // lanes) as c:
            i = bind(c * i64(lanes))
            cos = bind(load(p.table, t * i64(self.size) + i, lanes))
            sin = bind(load(p.table, t * i64(self.size) + i64(half) + i, lanes))
            with loop(self.heads) as head:
                at = bind(head * i64(self.size) + i)
                a = bind(load(p.x, self.x.at(t, at), lanes))
                b = bind(load(p.x, self.x.at(t, at + i64(half)), lanes))
                out = bind(t * i64(self.x.width) + at)
                store(p.out, out, a * cos - b * sin, lanes)
                store(p.out, out + i64(half), b * cos + a * sin, lanes)
