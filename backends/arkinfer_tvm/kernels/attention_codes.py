"""Attention over int8 caches where four bytes are multiplied and added at once: no code is widened.

Query vectors, and the weights of a block, are whole numbers of 16 bits here, as a high and a low
byte: two products of bytes each. Knows nothing of how jobs are chosen.
"""

from __future__ import annotations

from typing import ClassVar

from tvm import tirx
from tvm.script.ir_builder import tirx as build

from arkinfer_tvm.isa import Isa
from arkinfer_tvm.kernels.attention_tile import MASKED, TOKEN, Tile, in_pairs
from arkinfer_tvm.kernels.common import (
    Buffer,
    Expr,
    accumulator,
    bind,
    constant,
    horizontal_max,
    horizontal_sum,
    i64,
    load,
    loop,
    spread,
    store,
)
from arkinfer_tvm.kernels.reading import VECTOR
from arkinfer_tvm.storage import BLOCK, LANES, Cache

_CODES = 4
"""Of a word."""
_MOST_QUERY = 32512.0
"""127 * 256: the high byte is signed."""
_MOST_WEIGHT = 65535.0
_LEAST = 1e-30


class CodeTile(Tile):
    """See the module."""

    MOST_DIMS: ClassVar[int] = 128
    """Of a head: products of more could leave 32 bits."""

    @classmethod
    def fits(cls, isa: Isa, cache: Cache) -> bool:
        """Whether an instruction set multiplies any byte by any other."""
        return cache.dtype == "int8" and isa.most_code == 255 and cache.size <= cls.MOST_DIMS

    def keep_query(self, row: Expr) -> None:
        """Two planes of bytes, the step between whole numbers, and 128 times their sum."""
        chunks = self.kernel.dims // VECTOR
        greatest, total = accumulator(VECTOR, _LEAST), accumulator(VECTOR)
        with loop(chunks) as c:
            value = bind(load(self.f32, self.at["row"] + c * i64(VECTOR), VECTOR))
            value = build.max(value, constant(0.0, VECTOR) - value)
            store(greatest, 0, build.max(value, load(greatest, 0, VECTOR)), VECTOR)
        most = bind(horizontal_max(load(greatest, 0, VECTOR), VECTOR))
        with loop(chunks) as c:
            value = load(self.f32, self.at["row"] + c * i64(VECTOR), VECTOR)
            whole = bind(build.nearbyint(value * spread(constant(_MOST_QUERY) / most, VECTOR)))
            store(total, 0, load(total, 0, VECTOR) + whole, VECTOR)
            whole = bind(build.cast(whole, "int32x16"))
            high = bind((whole + _i32(128)) >> _i32(8))
            at = bind(self.at["query"] + row * i64(self.kernel.dims) + c * i64(VECTOR // _CODES))
            self._bytes(at, high, "int8x16")
            low = whole - (high << _i32(8))
            self._bytes(at + i64(self.kernel.dims // _CODES), low, "int8x16")
        store(self.f32, self.at["query steps"] + row, most / constant(_MOST_QUERY))
        offset = horizontal_sum(load(total, 0, VECTOR), VECTOR) * constant(-128.0)
        store(self.i32, self.at["offsets"] + row, build.cast(offset, "int32"))

    def expect(self, greatest: Expr, scales: list[Expr], fewest: Expr) -> None:
        """The step between whole numbers of each row, from the most that a weight can be.

        By the scales of what the row sees: those of later tokens must not change a bit.
        """
        most, steps = self.isa.exp2(greatest, self.reading.exp2), self.at["weight steps"]
        if scales:
            largest = horizontal_max(in_pairs(build.max, scales), VECTOR)
            store(self.f32, steps, spread(largest, VECTOR), VECTOR)
            with build.If(fewest < i64(BLOCK)), build.Then(), loop(self.kernel.group) as j:
                at = bind(self.at["scores"] + j * i64(BLOCK))
                store(self.f32, steps + j, self._largest_seen(at, scales))
            most = most * load(self.f32, steps, VECTOR)
        most = bind(build.max(most, constant(_LEAST, VECTOR)))
        whole = constant(_MOST_WEIGHT, VECTOR)
        store(self.f32, steps, most / whole, VECTOR)
        store(self.f32, self.at["weight factors"], whole / most, VECTOR)

    def _largest_seen(self, at: Expr, scales: list[Expr]) -> Expr:
        """Of the scales of a block, beside the scores of a row."""
        hidden, nothing = constant(MASKED / 2, VECTOR), constant(0.0, VECTOR)
        seen = [
            tirx.Select(load(self.f32, at + i64(c * VECTOR), VECTOR) > hidden, scale, nothing)
            for c, scale in enumerate(scales)
        ]
        return horizontal_max(in_pairs(build.max, seen), VECTOR)

    def keep_weights(self, j: Expr, weights: list[Expr]) -> None:
        """Two planes of bytes.

        Beside 2^23 a number has no fraction, and its last bits are a whole number's.
        """
        factor = bind(spread(load(self.f32, self.at["weight factors"] + j), VECTOR))
        for c, weight in enumerate(weights):
            bits = self.isa.fma(weight, factor, constant(2.0**23, VECTOR))
            whole = bind(build.reinterpret("int32x16", bits))
            at = bind(self.at["weights"] + j * i64(BLOCK) + i64(c * VECTOR // _CODES))
            self._bytes(at, whole >> _i32(8), "uint8x16")
            self._bytes(at + i64(BLOCK // _CODES), whole, "uint8x16")

    def _bytes(self, at: Expr, whole: Expr, kind: str) -> None:
        words = build.reinterpret("uint32x4", build.cast(whole, kind))
        store(self.u32, at, words, VECTOR // _CODES)

    def scores(self, base: Expr, group: Expr, most: Expr) -> None:
        """See `Tile.scores`. Codes are unsigned with 128 added, which the offset takes off."""
        kernel = self.kernel
        words = kernel.cache.padded // _CODES
        flip = constant(0x80808080, VECTOR, "uint32")
        with loop((most + i64(LANES - 1)) // i64(LANES)) as half:
            start = bind((base * i64(BLOCK // LANES) + half) * i64(words * LANES))
            for rows, vectors in self.cuts(LANES // VECTOR):
                sums = {(r, c): _integers() for r in rows for c in vectors}
                for plane in range(2):
                    with loop(words) as d:
                        at = bind(start + d * i64(LANES))
                        if plane == 0 and kernel.ranges > 1 and rows.start == 0:
                            self.look_ahead(self.p.k, at, words, vectors)
                        keys = {
                            c: bind(build.reinterpret("uint8x64", _word(self.p.k, at, c) ^ flip))
                            for c in vectors
                        }
                        for r in rows:
                            query = self.at["query"] + self.row(group, r) * i64(kernel.dims) + d
                            query = query + i64(plane * kernel.dims // _CODES)
                            factor = self._factor(query, "int8x64")
                            for c in vectors:
                                self._add(sums[r, c], keys[c], factor)
                    if plane == 0:
                        for (r, _), total in sums.items():
                            offset = load(self.i32, self.at["offsets"] + self.row(group, r))
                            wide = (load(total, 0, VECTOR) << _i32(8)) + spread(offset, VECTOR)
                            store(total, 0, wide, VECTOR)
                for (r, c), total in sums.items():
                    token = bind(half * i64(LANES) + i64(c * VECTOR))
                    step = load(self.f32, self.at["query steps"] + self.row(group, r))
                    score = build.cast(load(total, 0, VECTOR), "float32x16") * spread(step, VECTOR)
                    if kernel.scales == TOKEN:
                        score = score * load(self.p.k_scale, base * i64(BLOCK) + token, VECTOR)
                    store(self.f32, self.at["scores"] + i64(r * BLOCK) + token, score, VECTOR)

    def mix(self, base: Expr, group: Expr, most: Expr) -> None:
        """See `Tile.mix`."""
        kernel, values = self.kernel, self.kernel.values
        words = bind((most + i64(_CODES - 1)) // i64(_CODES))
        parts = values.padded // values.width
        with loop(parts) as part:
            start = (base * i64(parts) + part) * i64(BLOCK // _CODES * values.width)
            start = bind(start)
            for rows, vectors in self.cuts(values.width // VECTOR):
                sums = {(r, c): _integers() for r in rows for c in vectors}
                for plane in range(2):
                    with loop(words) as t:
                        at = bind(start + t * i64(values.width))
                        if plane == 0 and kernel.ranges > 1 and rows.start == 0:
                            self.look_ahead(self.p.v, at, values.padded // _CODES, vectors)
                        read = {
                            c: bind(build.reinterpret("int8x64", _word(self.p.v, at, c)))
                            for c in vectors
                        }
                        for r in rows:
                            place = self.at["weights"] + i64(r * BLOCK + plane * BLOCK // _CODES)
                            factor = self._factor(place + t, "uint8x64")
                            for c in vectors:
                                self._add(sums[r, c], factor, read[c])
                    if plane == 0:
                        for total in sums.values():
                            store(total, 0, load(total, 0, VECTOR) << _i32(8), VECTOR)
                for (r, c), total in sums.items():
                    at = self.at["sums"] + self.row(group, r) * i64(values.padded)
                    at = bind(at + part * i64(values.width) + i64(c * VECTOR))
                    step = spread(load(self.f32, self.at["weight steps"] + i64(r)), VECTOR)
                    faded = spread(load(self.f32, self.at["fade"] + i64(r)), VECTOR)
                    added = build.cast(load(total, 0, VECTOR), "float32x16") * step
                    added = self.isa.fma(load(self.f32, at, VECTOR), faded, added)
                    store(self.f32, at, added, VECTOR)

    def _factor(self, at: Expr, kind: str) -> Expr:
        """Four bytes, in every lane."""
        return bind(build.reinterpret(kind, spread(load(self.u32, at), VECTOR)))

    def _add(self, total: Buffer, codes: Expr, activations: Expr) -> None:
        store(total, 0, self.isa.dot(load(total, 0, VECTOR), codes, activations), VECTOR)


def _word(cache: Buffer, at: Expr, vector: int) -> Expr:
    return load(cache, at + i64(vector * VECTOR), VECTOR)


def _integers() -> Buffer:
    """Registers that a loop adds whole numbers to."""
    buffer = build.alloc_buffer((VECTOR,), "int32")
    store(buffer, 0, _i32(0), VECTOR)
    return buffer


def _i32(number: int) -> Expr:
    return constant(number, VECTOR, "int32")
