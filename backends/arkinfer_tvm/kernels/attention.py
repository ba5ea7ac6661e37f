"""Kernels of the key-value cache: append, and attention over it.

A cache is [capacity, kv heads, head size], one token after the other: float32, or int8 with
float32 scales: one for each (kv head, place), or one for each (token, kv head), kept beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

from tvm.script.ir_builder import tirx as build

from arkinfer_tvm.isa import Isa
from arkinfer_tvm.kernels.common import (
    Buffer,
    Expr,
    Kernel,
    RowKernel,
    Strided,
    accumulator,
    bind,
    constant,
    exponential,
    horizontal_max,
    horizontal_sum,
    i64,
    jobs,
    kind,
    lanes_of,
    load,
    loop,
    spread,
    store,
)
from arkinfer_tvm.program import Dimension

BLOCK = 16
"""Tokens whose scores are turned into weights at a time."""
_MASKED = -1e30
_LEAST_SCALE = 2.0**-126
"""The least number that float32 has in full, as `cache.append` says."""

CHANNEL, TOKEN = "channel", "token"
"""What int8 caches have a scale for."""


@dataclass(frozen=True)
class Append(RowKernel):
    """cache[start + t] = rows[t]; int8: round(rows[t] / scale), cut off."""

    family: ClassVar[str] = "append"
    rows: Strided
    cache: str

    def parameters(self) -> dict[str, str]:
        kinds = {"rows": "float32", "cache": self.cache}
        if self.cache == "int8":
            kinds["scale"] = "float32"
        return {**kinds, "start": "int64"}

    def row(self, isa: Isa, p: SimpleNamespace, t: Expr) -> None:
        width, lanes = self.rows.width, self.rows.lanes
        start = bind(load(p.start, 0))
        with loop(width // lanes) as i:
            at = bind(i * i64(lanes))
            value = load(p.rows, self.rows.at(t, at), lanes)
            if self.cache == "int8":
                value = _codes(value, load(p.scale, at, lanes), lanes)
            store(p.cache, (start + t) * i64(width) + at, value, lanes)


@dataclass(frozen=True)
class AppendScaled(RowKernel):
    """cache[start + t] = round(rows[t] / scale), where scales[start + t] = max|rows[t]| / 127, head
    by head."""

    family: ClassVar[str] = "append_scaled"
    rows: Strided
    heads: int

    def parameters(self) -> dict[str, str]:
        kinds = {"rows": "float32", "cache": "int8", "scales": "float32"}
        return {**kinds, "start": "int64"}

    def row(self, isa: Isa, p: SimpleNamespace, t: Expr) -> None:
        size = self.rows.width // self.heads
        lanes = lanes_of(size, self.rows.stride, self.rows.offset)
        start = bind(load(p.start, 0))
        with loop(self.heads) as head:
            first = bind(head * i64(size))
            greatest = accumulator(lanes)
            with loop(size // lanes) as i:
                value = bind(load(p.rows, self.rows.at(t, first + i * i64(lanes)), lanes))
                magnitude = build.max(value, constant(0.0, lanes) - value)
                store(greatest, 0, build.max(load(greatest, 0, lanes), magnitude), lanes)
            most = horizontal_max(load(greatest, 0, lanes), lanes)
            scale = bind(build.max(most / constant(127.0), constant(_LEAST_SCALE)))
            store(p.scales, (start + t) * i64(self.heads) + head, scale)
            with loop(size // lanes) as i:
                at = bind(first + i * i64(lanes))
                value = load(p.rows, self.rows.at(t, at), lanes)
                codes = _codes(value, spread(scale, lanes), lanes)
                store(p.cache, (start + t) * i64(self.rows.width) + at, codes, lanes)


def _codes(value: Expr, scale: Expr, lanes: int) -> Expr:
    """int8: round(value / scale), ties to even, cut off."""
    value = build.nearbyint(value / scale)
    value = build.max(value, constant(-128.0, lanes))
    value = build.min(value, constant(127.0, lanes))
    return build.cast(build.cast(value, kind("int32", lanes)), kind("int8", lanes))


@dataclass(frozen=True)
class Attention(Kernel):
    """Causal softmax attention of the last `count` of `length` tokens, one (token, head) at a time.

    Softmax in one pass with a running maximum. Source: Milakov and Gimelshein 2018, algorithm 3.
    """

    family: ClassVar[str] = "attention"
    q: Strided
    heads: int
    kv_heads: int
    size: int
    scale: float
    scales: str = ""
    """CHANNEL or TOKEN of int8 caches; "": caches are float32."""

    def parameters(self) -> dict[str, str]:
        cache = "int8" if self.scales else "float32"
        kinds = {"q": "float32", "k": cache, "v": cache}
        if self.scales:
            kinds |= {"k_scale": "float32", "v_scale": "float32"}
        return {**kinds, "out": "float32", "length": "int64", "count": "int64"}

    def jobs(self, rows: Dimension) -> Dimension:
        return rows.times(self.heads)

    def emit(self, isa: Isa, p: SimpleNamespace, first: Expr, last: Expr) -> None:
        count, length = bind(load(p.count, 0)), bind(load(p.length, 0))
        heads = i64(self.heads)
        with jobs(first, last) as item:
            t, head = bind(item // heads), bind(item % heads)
            kv_head = bind(head // i64(self.heads // self.kv_heads))
            seen = bind(length - count + t + i64(1))
            self._attend(p, t, head, kv_head, seen)

    @property
    def _lanes(self) -> int:
        return lanes_of(self.size, self.q.stride, self.q.offset)

    def _cached(self, cache: Buffer, token: Expr, kv_head: Expr, column: int) -> Expr:
        """What a cache holds from a column on, as float32 (codes, where it is int8)."""
        at = (token * i64(self.kv_heads) + kv_head) * i64(self.size) + i64(column)
        value = load(cache, at, self._lanes)
        if not self.scales:
            return value
        code = build.cast(value, kind("int32", self._lanes))
        return build.cast(code, kind("float32", self._lanes))

    def _channel_scaled(self, value: Expr, scales: Buffer, kv_head: Expr, column: int) -> Expr:
        """Scales per channel of K go into the query, those of V into the result: once a token."""
        at = kv_head * i64(self.size) + i64(column)
        return value * load(scales, at, self._lanes)

    def _token_scale(self, scales: Buffer, token: Expr, kv_head: Expr) -> Expr:
        return load(scales, token * i64(self.kv_heads) + kv_head)

    def _attend(self, p: SimpleNamespace, t: Expr, head: Expr, kv_head: Expr, seen: Expr) -> None:
        lanes = self._lanes
        columns = range(0, self.size, lanes)
        query = [load(p.q, self.q.at(t, head * i64(self.size) + i64(c)), lanes) for c in columns]
        if self.scales == CHANNEL:
            scaled = zip(query, columns, strict=True)
            query = [self._channel_scaled(part, p.k_scale, kv_head, c) for part, c in scaled]
        query = [bind(part) for part in query]
        mixed = [accumulator(lanes) for _ in columns]
        greatest, total = accumulator(1, _MASKED), accumulator(1)
        with loop((seen + i64(BLOCK - 1)) // i64(BLOCK)) as block:
            first = bind(block * i64(BLOCK))
            inside = bind(build.min(seen - first, i64(BLOCK)))
            weights = accumulator(BLOCK, _MASKED)
            with loop(inside) as j:
                score = query[0] * self._cached(p.k, first + j, kv_head, 0)
                for c, part in zip(columns[1:], query[1:], strict=True):
                    score = score + part * self._cached(p.k, first + j, kv_head, c)
                score = horizontal_sum(score, lanes) * constant(self.scale)
                if self.scales == TOKEN:
                    score = score * self._token_scale(p.k_scale, first + j, kv_head)
                store(weights, j, score)
            self._weigh(weights, greatest, total, mixed)
            with loop(inside) as j:
                weight = load(weights, j)
                if self.scales == TOKEN:
                    weight = weight * self._token_scale(p.v_scale, first + j, kv_head)
                weight = bind(weight)
                for c, part in zip(columns, mixed, strict=True):
                    value = self._cached(p.v, first + j, kv_head, c)
                    store(part, 0, load(part, 0, lanes) + value * spread(weight, lanes), lanes)
        out = bind((t * i64(self.heads) + head) * i64(self.size))
        share = bind(constant(1.0) / load(total, 0))
        for c, part in zip(columns, mixed, strict=True):
            value = load(part, 0, lanes) * spread(share, lanes)
            if self.scales == CHANNEL:
                value = self._channel_scaled(value, p.v_scale, kv_head, c)
            store(p.out, out + i64(c), value, lanes)

    def _weigh(self, weights: Buffer, greatest: Buffer, total: Buffer, mixed: list[Buffer]) -> None:
        """Scores of a block become weights relative to the maximum so far; sums follow it."""
        lanes = self._lanes
        scores = bind(load(weights, 0, BLOCK))
        maximum = bind(build.max(load(greatest, 0), horizontal_max(scores, BLOCK)))
        fade = exponential(load(greatest, 0) - maximum)
        fresh = exponential(scores - spread(maximum, BLOCK), BLOCK)
        store(weights, 0, fresh, BLOCK)
        store(total, 0, load(total, 0) * fade + horizontal_sum(fresh, BLOCK))
        store(greatest, 0, maximum)
        for part in mixed:
            store(part, 0, load(part, 0, lanes) * spread(fade, lanes), lanes)
