"""Kernels that fetch rows of a table by token id: from rows as they are in a file, or out of the
streams that a head multiplies by, so that a tied table is stored once.
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
from arkinfer_tvm.layout import LANES, LINE, DenseStream, Stream


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
class StreamEmbedding(RowKernel):
    """out[t] = scale * table[tokens[t]], one number at a time: it is a row per token."""

    family: ClassVar[str] = "embedding"
    stream: Stream | DenseStream
    scale: float

    def parameters(self) -> dict[str, str]:
        ordered = isinstance(self.stream, Stream) and self.stream.order
        order = {"order": "int32"} if ordered else {}
        return {"tokens": "int64", "weight": "uint8", **order, "out": "float32"}

    def row(self, isa: Isa, p: SimpleNamespace, t: Expr) -> None:
        token = bind(load(p.tokens, t))
        slab = bind(token // i64(self.stream.channels))
        channel = bind(token % i64(self.stream.channels))
        out = bind(t * i64(self.stream.columns))
        if isinstance(self.stream, Stream):
            self._quantized(isa, p, self.stream, slab, channel, out)
            return
        size = self.stream.itemsize
        with loop(self.stream.columns) as k:
            at = bind(k * i64(self.stream.channels) + channel)
            value = _number(p, slab * i64(self.stream.slab) + at * i64(size), self.stream.dtype)
            store(p.out, out + k, value * constant(self.scale))

    def _quantized(
        self, isa: Isa, p: SimpleNamespace, stream: Stream, slab: Expr, channel: Expr, out: Expr
    ) -> None:
        start = bind(slab * i64(stream.slab))
        lane = bind(channel % i64(LANES) * i64(4))
        block = bind(channel // i64(LANES))
        wide = 4 if stream.scale == "f32" else 2
        factor = bind(_number(p, start + i64(stream.factors) + channel * i64(4), "f32"))
        with loop(stream.groups) as g:
            record = bind(start + g * i64(stream.record))
            scale = _number(p, record + i64(stream.codes) + channel * i64(wide), stream.scale)
            step, zero, least = bind(scale * factor), constant(0.0), constant(0.0)
            if stream.offset == "zero":
                code = load(p.weight, record + i64(stream.zeros) + channel)
                zero = bind(build.cast(code, "float32"))
            elif stream.offset == "none":
                zero = constant(float(stream.middle))
            else:
                at = record + i64(stream.minima) + channel * i64(4)
                least = bind(_number(p, at, "f32") * factor)
            with loop(stream.group) as i:
                line = bind(i // i64(stream.span))
                inside = bind(i % i64(stream.span))
                at = (line * i64(stream.blocks) + block) * i64(LINE) + lane + inside % i64(4)
                byte = load(p.weight, record + at)
                if stream.signed:
                    byte = byte ^ constant(128, 1, "uint8")
                shift = build.cast(inside // i64(4) * i64(stream.bits), "uint8")
                code = (byte >> shift) & constant((1 << stream.bits) - 1, 1, "uint8")
                value = (build.cast(code, "float32") - zero) * step + least
                k = bind(g * i64(stream.group) + i)
                if stream.order:
                    k = bind(build.cast(load(p.order, k), "int64"))
                store(p.out, out + k, value * constant(self.scale))


def _number(p: SimpleNamespace, at: Expr, dtype: str) -> Expr:
    """The float at a byte of `weight`."""
    if dtype == "f32":
        return build.reinterpret("float32", load(p.weight, at, 4))
    return widen(build.reinterpret("uint16", load(p.weight, at, 2)), dtype)
