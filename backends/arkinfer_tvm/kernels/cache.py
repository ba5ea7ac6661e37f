"""Kernels that append to a cache; `arkinfer_tvm.storage` says how it lies.

They know nothing of attention.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import ClassVar

from tvm.script.ir_builder import tirx as build

from arkinfer_tvm.isa import Isa
from arkinfer_tvm.kernels.common import (
    Buffer,
    Expr,
    Kernel,
    Strided,
    accumulator,
    bind,
    constant,
    horizontal_max,
    i64,
    jobs,
    kind,
    lanes_of,
    load,
    loop,
    store,
)
from arkinfer_tvm.program import Dimension
from arkinfer_tvm.storage import BLOCK, LANES, Cache

_TOKENS = 16
"""Places of a job: all tokens whose numbers may lie on one line of the processor's cache."""
_LEAST_SCALE = 2.0**-126
"""The least number that float32 has in full, as `cache.append` says."""
_MOST_HALF = 65504.0

WORDS = {"float32": "float32", "bfloat16": "uint16", "float16": "uint16", "int8": "int8"}
"""What the elements of a cache are stored as."""


@dataclass(frozen=True)
class Append(Kernel):
    """cache[start + t] = rows[t], rounded to what is stored.

    int8: round(rows[t] / scale), cut off. With `scaled`, scales[start + t] = max|rows[t]| / 127,
    head by head; without, scales are given, one per channel.

    Where attention reads a token's numbers together with those of the next ones, these become 0.
    """

    family: ClassVar[str] = "append"
    written: ClassVar[tuple[str, ...]] = ("cache", "scales")
    rows: Strided
    cache: Cache
    scaled: bool = False

    def parameters(self) -> dict[str, str]:
        kinds = {"rows": "float32", "cache": WORDS[self.cache.dtype]}
        if self.scaled:
            kinds["scales"] = "float32"
        elif self.cache.dtype == "int8":
            kinds["scale"] = "float32"
        return {**kinds, "start": "int64", "count": "int64"}

    def jobs(self, rows: Dimension) -> Dimension:
        """Of 16 places each, the first and the last of which may belong to others."""
        return replace(rows, constant=rows.constant + _TOKENS - 1).tiles(_TOKENS)

    def emit(self, isa: Isa, p: SimpleNamespace, first: Expr, last: Expr) -> None:
        start, count = bind(load(p.start, 0)), bind(load(p.count, 0))
        begin = bind(start - start % i64(_TOKENS))
        with jobs(first, last) as job:
            low = bind(build.max(begin + job * i64(_TOKENS), start))
            end = build.min(begin + (job + i64(1)) * i64(_TOKENS), start + count)
            with loop(build.max(end - low, i64(0))) as i:
                place = bind(low + i)
                t = bind(place - start)
                with loop(self.cache.heads) as head:
                    self._head(isa, p, t, place, head)

    def _head(self, isa: Isa, p: SimpleNamespace, t: Expr, place: Expr, head: Expr) -> None:
        cache, size = self.cache, self.cache.size
        first = bind(head * i64(size))
        block = bind((place // i64(BLOCK)) * i64(cache.heads) + head)
        within = bind(place % i64(BLOCK))
        scale = None
        if self.scaled:
            scale = self._scale(p, t, first)
            self._fill(p.scales, bind(block * i64(BLOCK) + within), within % i64(cache.unit), scale)
        base = bind(block * i64(BLOCK * cache.padded))
        with loop(size) as d:
            value = load(p.rows, self.rows.at(t, first + d))
            if cache.dtype == "int8":
                value = value / (load(p.scale, first + d) if scale is None else scale)
            self._put(p.cache, base, within, d, _stored(isa, value, cache.dtype))
        if cache.order == "keys":
            for d in range(size, cache.padded):
                self._put(p.cache, base, within, i64(d), _zero(cache.dtype))

    def _put(self, cache: Buffer, base: Expr, token: Expr, d: Expr, value: Expr) -> None:
        """Stores one number of a block that begins at element `base`."""
        unit, padded, width = self.cache.unit, self.cache.padded, self.cache.width
        if self.cache.order == "keys":
            word = (token // i64(LANES)) * i64(padded // unit) + d // i64(unit)
            at = (word * i64(LANES) + token % i64(LANES)) * i64(unit) + d % i64(unit)
            store(cache, base + at, value)
            return
        word = (d // i64(width)) * i64(BLOCK // unit) + token // i64(unit)
        at = bind(base + (word * i64(width) + d % i64(width)) * i64(unit))
        place = bind(token % i64(unit))
        self._fill(cache, bind(at + place), place, value)

    def _fill(self, cache: Buffer, at: Expr, place: Expr, value: Expr) -> None:
        """Stores a number, and 0 for the tokens after it whose numbers attention reads with it."""
        store(cache, at, value)
        if self.cache.unit > 1:
            with loop(i64(self.cache.unit - 1) - place) as i:
                store(cache, at + i64(1) + i, constant(0, 1, str(cache.dtype)))

    def _scale(self, p: SimpleNamespace, t: Expr, first: Expr) -> Expr:
        size = self.cache.size
        lanes = lanes_of(size, self.rows.stride, self.rows.offset)
        greatest = accumulator(lanes)
        with loop(size // lanes) as i:
            value = bind(load(p.rows, self.rows.at(t, first + i * i64(lanes)), lanes))
            magnitude = build.max(value, constant(0.0, lanes) - value)
            store(greatest, 0, build.max(load(greatest, 0, lanes), magnitude), lanes)
        most = horizontal_max(load(greatest, 0, lanes), lanes)
        return bind(build.max(most / constant(127.0), constant(_LEAST_SCALE)))


def _zero(dtype: str) -> Expr:
    return constant(0, 1, WORDS[dtype])


def _stored(isa: Isa, value: Expr, dtype: str) -> Expr:
    """One number as a cache holds it; what is too large for it is cut off."""
    if dtype == "float32":
        return value
    if dtype == "bfloat16":
        return isa.bfloat(value, 1)
    if dtype == "float16":
        most = constant(_MOST_HALF)
        value = build.max(build.min(value, most), constant(0.0) - most)
        return build.reinterpret("uint16", build.cast(value, "float16"))
    value = build.max(build.nearbyint(value), constant(-128.0))
    value = build.min(value, constant(127.0))
    return build.cast(build.cast(value, kind("int32", 1)), "int8")
