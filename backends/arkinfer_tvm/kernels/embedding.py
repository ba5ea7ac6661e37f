"""Kernels that fetch rows of a table by token id."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

from tvm.script.ir_builder import tirx as build

from arkinfer_tvm.isa import Isa
from arkinfer_tvm.kernels.common import (
    Expr,
    RowKernel,
    bind,
    constant,
    i64,
    lanes_of,
    load,
    loop,
    store,
    stored,
    widen,
)
from arkinfer_tvm.kernels.quantized import Layout


@dataclass(frozen=True)
class Embedding(RowKernel):
    """out[t] = scale * table[tokens[t]]."""

    family: ClassVar[str] = "embedding"
    width: int
    table: str
    scale: float

    def parameters(self) -> dict[str, str]:
        return {
            "tokens": "int64",
            "table": stored(self.table),
            "out": "float32",
        }

    def row(self, isa: Isa, p: SimpleNamespace, t: Expr) -> None:
        lanes = lanes_of(self.width)
        token = bind(load(p.tokens, t))
        with loop(self.width // lanes) as i:
            at = bind(i * i64(lanes))
            value = widen(load(p.table, token * i64(self.width) + at, lanes), self.table, lanes)
            store(p.out, t * i64(self.width) + at, value * constant(self.scale, lanes), lanes)


@dataclass(frozen=True)
class QuantEmbedding(RowKernel):
    """out[t] = scale * dequantize(table)[tokens[t]]; one code at a time: it is a row per token."""

    family: ClassVar[str] = "quant_embedding"
    layout: Layout
    scale: float

    def parameters(self) -> dict[str, str]:
        return {
            "tokens": "int64",
            **self.layout.parameters(),
            "out": "float32",
        }

    def row(self, isa: Isa, p: SimpleNamespace, t: Expr) -> None:
        layout = self.layout
        size = layout.group
        token = bind(load(p.tokens, t))
        with loop(layout.groups) as g:
            terms = layout.terms(p, token, g)
            with loop(size) as i:
                value = layout.value(layout.code(p, token, g, i), terms)
                column = bind(g * i64(size) + i)
                if layout.order:
                    column = bind(build.cast(load(p.order, column), "int64"))
                out = t * i64(layout.columns) + column
                store(p.out, out, value * constant(self.scale))
