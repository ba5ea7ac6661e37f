"""Kernels that fetch rows of a table by token id."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

from tvm.script.ir_builder import tirx as build

from arkinfer_tvm.kernels.common import (
    Expr,
    Kernel,
    bind,
    constant,
    each_row,
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
class Embedding(Kernel):
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
            "count": "int64",
        }

    def emit(self, p: SimpleNamespace) -> None:
        lanes = lanes_of(self.width)

        def row(t: Expr) -> None:
            token = bind(load(p.tokens, t))
            with loop(self.width // lanes) as i:
                at = bind(i * i64(lanes))
                value = widen(load(p.table, token * i64(self.width) + at, lanes), self.table, lanes)
                store(p.out, t * i64(self.width) + at, value * constant(self.scale, lanes), lanes)

        each_row(load(p.count, 0), row)


@dataclass(frozen=True)
class QuantEmbedding(Kernel):
    """out[t] = scale * dequantize(table)[tokens[t]]; one code at a time: it is a row per token."""

    family: ClassVar[str] = "quant_embedding"
    layout: Layout
    scale: float

    def parameters(self) -> dict[str, str]:
        return {
            "tokens": "int64",
            **self.layout.parameters(),
            "out": "float32",
            "count": "int64",
        }

    def emit(self, p: SimpleNamespace) -> None:
        layout = self.layout
        size = layout.group

        def row(t: Expr) -> None:
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

        each_row(load(p.count, 0), row)
