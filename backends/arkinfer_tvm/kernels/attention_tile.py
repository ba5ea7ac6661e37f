"""The code of one job of attention: a tile of query vectors over a range of keys.

Written while a kernel is emitted; knows how a cache lies, and nothing of how jobs are chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING

from tvm.script.ir_builder import tirx as build

from arkinfer_tvm.isa import Isa
from arkinfer_tvm.kernels.common import (
    Buffer,
    Expr,
    accumulator,
    bind,
    constant,
    horizontal_max,
    horizontal_sum,
    i64,
    lanes_of,
    load,
    loop,
    prefetch,
    spread,
    store,
    tirx,
)
from arkinfer_tvm.kernels.reading import VECTOR, Reading, reading
from arkinfer_tvm.storage import BLOCK, LANES

if TYPE_CHECKING:
    from arkinfer_tvm.kernels.attention import Attention

HEAD = VECTOR
"""Numbers before the sums of a range: the greatest score and the sum of the weights."""

MASKED = -1e30
"""The score of a key that is not seen."""

CHANNEL, TOKEN = "channel", "token"
"""What int8 caches have a scale for."""

_LOG2_E = 1.4426950408889634


class Tile:
    """The code of one job, while it is written."""

    def __init__(
        self, kernel: Attention, isa: Isa, p: SimpleNamespace, count: Expr, length: Expr,
        tile: Expr, head: Expr, part: Expr, per: Expr,
    ) -> None:  # fmt: skip
        self.kernel, self.isa, self.p = kernel, isa, p
        self.head, self.part, self.per = head, part, per
        self.count, self.old = count, bind(length - count)
        self.token = bind(tile * i64(kernel.tokens))
        self.here = bind(build.min(i64(kernel.tokens), count - self.token))
        self.rows = bind(self.here * i64(kernel.shared))
        self.reading: Reading = reading(isa, kernel.cache)
        self.at = {name: i64(place) for name, place in kernel.places.items()}
        # One array of 4-byte words under three types; each word is used under one.
        self.i32 = build.decl_buffer((1 << 40,), "int32", data=p.own.data)
        self.f32 = build.decl_buffer((1 << 40,), "float32", data=p.own.data)
        self.u32 = build.decl_buffer((1 << 40,), "uint32", data=p.own.data)

    def run(self) -> None:
        kernel = self.kernel
        groups = bind((self.rows + i64(kernel.group - 1)) // i64(kernel.group))
        with loop(groups) as group:
            self._prepare(group)
        seen = self.old + self.token + self.here  # keys that the last token sees
        if kernel.tree:
            seen = self.old + self.count
        begin = bind(self.part * self.per)
        end = bind(build.min(begin + self.per, (seen + i64(BLOCK - 1)) // i64(BLOCK)))
        with loop(build.max(end - begin, i64(0))) as i:
            block = bind(begin + i)
            with loop(groups) as group:
                self._block(block, group)
        with loop(groups) as group:
            self._finish(group)

    def row(self, group: Expr, j: Expr | int) -> Expr:
        return group * i64(self.kernel.group) + (i64(j) if isinstance(j, int) else j)

    # --- queries ---

    def _prepare(self, group: Expr) -> None:
        """Query vectors, scaled, to where they can be read word by word; sums become 0."""
        kernel = self.kernel
        size = kernel.values.padded
        with loop(kernel.group) as j:
            row = bind(self.row(group, j))
            with build.If(row < self.rows):
                with build.Then():
                    self._fetch(row)
                with build.Else():
                    with loop(kernel.dims // VECTOR) as c:
                        at = self.at["row"] + c * i64(VECTOR)
                        store(self.f32, at, constant(0.0, VECTOR), VECTOR)
            self.keep_query(row)
            with loop(size // VECTOR) as c:
                at = self.at["sums"] + row * i64(size) + c * i64(VECTOR)
                store(self.f32, at, constant(0.0, VECTOR), VECTOR)
            at = self.at["totals"] + row * i64(VECTOR)
            store(self.f32, at, constant(0.0, VECTOR), VECTOR)
        at = self.at["greatest"] + group * i64(VECTOR)
        store(self.f32, at, constant(MASKED, VECTOR), VECTOR)

    def keep_query(self, row: Expr) -> None:
        """The query vector in "row", as factors of keys."""
        with loop(self.kernel.dims // VECTOR) as c:
            value = load(self.f32, self.at["row"] + c * i64(VECTOR), VECTOR)
            word = row * i64(self.kernel.dims) + c * i64(VECTOR // self.reading.packed)
            self._keep(self.at["query"] + word, value)

    def _fetch(self, row: Expr) -> None:
        """One query vector, scaled, to "row"."""
        kernel, size = self.kernel, self.kernel.cache.size
        token = bind(self.token + row // i64(kernel.shared))
        column = bind((self.head * i64(kernel.shared) + row % i64(kernel.shared)) * i64(size))
        lanes = lanes_of(size, kernel.q.stride, kernel.q.offset)
        if size % VECTOR:
            at = self.at["row"] + i64(kernel.dims - VECTOR)
            store(self.f32, at, constant(0.0, VECTOR), VECTOR)
        with loop(size // lanes) as i:
            d = bind(i * i64(lanes))
            value = load(self.p.q, kernel.q.at(token, column + d), lanes)
            if kernel.scales == CHANNEL:
                value = value * load(self.p.k_scale, self.head * i64(size) + d, lanes)
            value = value * constant(kernel.scale * _LOG2_E, lanes)
            store(self.f32, self.at["row"] + d, value, lanes)

    def _keep(self, at: Expr, value: Expr) -> None:
        """16 floats, as factors of what is read of the cache."""
        if self.reading.packed == 1:
            store(self.f32, at, value, VECTOR)
        else:
            words = build.reinterpret("uint32x8", self.isa.bfloat(value))
            store(self.u32, at, words, VECTOR // 2)

    # --- a block ---

    def _block(self, block: Expr, group: Expr) -> None:
        kernel = self.kernel
        base = bind(block * i64(kernel.cache.heads) + self.head)
        first, last = self.row(group, 0), self.row(group, kernel.group - 1)
        last = build.min(last, self.rows - i64(1))
        before = bind(block * i64(BLOCK))
        fewest = bind(self._seen(first) - before)
        most = bind(build.min(self._seen(last) - before, i64(BLOCK)))
        if kernel.tree:
            fewest, most = (
                bind(self.old - before),
                bind(build.min(self.old + self.count - before, i64(BLOCK))),
            )
        with build.If(most > i64(0)), build.Then():
            self.scores(base, group, most)
            with build.If(fewest < i64(BLOCK)), build.Then():
                self._mask(group, before)
            self._weigh(base, fewest, most, group)
            self.mix(base, group, most)

    def _seen(self, row: Expr) -> Expr:
        """How many keys a query vector sees."""
        return self.old + self.token + row // i64(self.kernel.shared) + i64(1)

    def cuts(self, vectors: int) -> list[tuple[range, range]]:
        """How rows x vectors of a group are cut for the registers there are."""
        isa, rows = self.isa, self.kernel.group
        wide = 2 if isa.per_block == 1 else 1
        tall = 8 if isa.per_block == 1 else 4
        return [
            (range(r, min(r + tall, rows)), range(c, min(c + wide, vectors)))
            for r in range(0, rows, tall)
            for c in range(0, vectors, wide)
        ]

    def scores(self, base: Expr, group: Expr, most: Expr) -> None:
        """scores[row, token] of up to `most` tokens of a block, 32 at a time."""
        kernel = self.kernel
        words = kernel.cache.padded // self.reading.unit
        with loop((most + i64(LANES - 1)) // i64(LANES)) as half:
            start = bind((base * i64(BLOCK // LANES) + half) * i64(words * LANES))
            for rows, vectors in self.cuts(LANES // VECTOR):
                sums = {(r, c): accumulator(VECTOR) for r in rows for c in vectors}
                with loop(words) as d:
                    at = bind(start + d * i64(LANES))
                    if kernel.ranges > 1 and rows.start == 0:
                        self.look_ahead(self.p.k, at, words, vectors)
                    query = {
                        r: self.at["query"]
                        + self.row(group, r) * i64(kernel.dims)
                        + d * i64(self.reading.factors)
                        for r in rows
                    }
                    self._multiply(self.p.k, at, query, sums)
                for (r, c), total in sums.items():
                    token = bind(half * i64(LANES) + i64(c * VECTOR))
                    score = load(total, 0, VECTOR)
                    if kernel.scales == TOKEN:
                        score = score * load(self.p.k_scale, base * i64(BLOCK) + token, VECTOR)
                    store(self.f32, self.at["scores"] + i64(r * BLOCK) + token, score, VECTOR)

    def look_ahead(self, cache: Buffer, at: Expr, words: int, vectors: range) -> None:
        """Asks for what the next block has in the place of what is read now.

        Without it a core waits for memory, then computes: it looks some 100 cycles ahead by itself.
        Behind the last block of a range that is the next range; to ask for what lies behind the
        cache does no harm.

        Args:
            cache: keys or values.
            at: of the word that is read.
            words: that a head has for each token.
            vectors: which of them are read from there on.
        """
        block = self.kernel.cache.heads * BLOCK * words
        for c in vectors:
            prefetch(cache, at + i64(block + c * VECTOR))

    def _multiply(
        self, cache: Buffer, at: Expr, factors: dict[int, Expr], sums: dict[tuple[int, int], Buffer]
    ) -> None:
        """sums[r, c] += the numbers of word 16 c + lane from `at` on, times row r's factors."""
        columns = sorted({c for _, c in sums})
        read = {c: self.reading.read(load(cache, at + i64(c * VECTOR), VECTOR)) for c in columns}
        for r, place in factors.items():
            for i in range(self.reading.factors):
                source = self.u32 if self.reading.packed > 1 else self.f32
                factor = bind(spread(load(source, place + i64(i)), VECTOR))
                for c in columns:
                    total = sums[r, c]
                    value = self.reading.multiply(load(total, 0, VECTOR), read[c][i], factor)
                    store(total, 0, value, VECTOR)

    def _mask(self, group: Expr, before: Expr) -> None:
        """Scores of keys that a token does not see become so low that their weight is 0."""
        old = bind(build.cast(self.old - before, "int32"))
        with loop(self.kernel.group) as j:
            row = build.min(self.row(group, j), self.rows - i64(1))
            token = bind(self.token + row // i64(self.kernel.shared))
            seen = bind(old + build.cast(token, "int32") + tirx.const(1, "int32"))
            ancestors = bind(load(self.p.ancestors, token)) if self.kernel.tree else None
            for c in range(BLOCK // VECTOR):
                at = self.at["scores"] + j * i64(BLOCK) + i64(c * VECTOR)
                lane = tirx.Ramp(tirx.const(c * VECTOR, "int32"), 1, VECTOR)
                if ancestors is None:
                    allowed = lane < spread(seen, VECTOR)
                else:
                    allowed = _in_tree(lane, old, ancestors)
                score = load(self.f32, at, VECTOR)
                masked = tirx.Select(allowed, score, constant(MASKED, VECTOR))
                store(self.f32, at, masked, VECTOR)

    def _weigh(self, base: Expr, fewest: Expr, most: Expr, group: Expr) -> None:
        """Scores become weights relative to the greatest so far, and older sums fade."""
        kernel, isa, vectors = self.kernel, self.isa, range(BLOCK // VECTOR)
        greatest = bind(self.at["greatest"] + group * i64(VECTOR))
        with loop(kernel.group) as j:
            at = bind(self.at["scores"] + j * i64(BLOCK))
            scores = [bind(load(self.f32, at + i64(c * VECTOR), VECTOR)) for c in vectors]
            top = horizontal_max(in_pairs(build.max, scores), VECTOR)
            store(self.f32, self.at["fresh"] + j, top)
        here, before = (bind(load(self.f32, x, VECTOR)) for x in (self.at["fresh"], greatest))
        fresh = bind(build.max(here, before))
        store(self.f32, self.at["fresh"], fresh, VECTOR)
        store(self.f32, self.at["fade"], isa.exp2(before - fresh), VECTOR)
        store(self.f32, greatest, fresh, VECTOR)
        scales = self._seen_scales(base, most) if kernel.scales == TOKEN else []
        self.expect(here - fresh, scales, fewest)
        with loop(kernel.group) as j:
            at = bind(self.at["scores"] + j * i64(BLOCK))
            top = bind(spread(load(self.f32, self.at["fresh"] + j), VECTOR))
            weights: list[Expr] = []
            for c in vectors:
                score = load(self.f32, at + i64(c * VECTOR), VECTOR)
                weights.append(isa.exp2(score - top, self.reading.exp2))
            total = bind(self.at["totals"] + self.row(group, j) * i64(VECTOR))
            faded = bind(spread(load(self.f32, self.at["fade"] + j), VECTOR))
            added = in_pairs(lambda a, b: a + b, weights)
            added = isa.fma(load(self.f32, total, VECTOR), faded, added)
            store(self.f32, total, added, VECTOR)
            for c, scale in enumerate(scales):
                weights[c] = bind(weights[c] * scale)
            self.keep_weights(j, weights)

    def _seen_scales(self, base: Expr, most: Expr) -> list[Expr]:
        """Of the values of a block; 0 from its token `most` on: these may have none yet."""
        end = bind(spread(build.cast(most, "int32"), VECTOR))
        scales: list[Expr] = []
        for c in range(BLOCK // VECTOR):
            scale = load(self.p.v_scale, base * i64(BLOCK) + i64(c * VECTOR), VECTOR)
            lane = tirx.Ramp(tirx.const(c * VECTOR, "int32"), 1, VECTOR)
            scales.append(bind(tirx.Select(lane < end, scale, constant(0.0, VECTOR))))
        return scales

    def expect(self, greatest: Expr, scales: list[Expr], fewest: Expr) -> None:
        """Before a block's weights: log2 of each row's greatest, scales, and what all rows see."""

    def keep_weights(self, j: Expr, weights: list[Expr]) -> None:
        """The weights of a block's tokens for row j of a group, as factors of values."""
        for c, weight in enumerate(weights):
            place = j * i64(BLOCK) + i64(c * VECTOR // self.reading.packed)
            self._keep(self.at["weights"] + place, weight)

    def mix(self, base: Expr, group: Expr, most: Expr) -> None:
        """sums = sums * fade + weights x values."""
        kernel = self.kernel
        values, unit = kernel.values, self.reading.unit
        words = bind((most + i64(unit - 1)) // i64(unit))
        with loop(values.padded // values.width) as part:
            start = bind(
                (base * i64(values.padded // values.width) + part)
                * i64(BLOCK // unit * values.width)
            )
            for rows, vectors in self.cuts(values.width // VECTOR):
                sums: dict[tuple[int, int], Buffer] = {}
                places: dict[tuple[int, int], Expr] = {}
                for r in rows:
                    faded = bind(spread(load(self.f32, self.at["fade"] + i64(r)), VECTOR))
                    for c in vectors:
                        row = self.row(group, r) * i64(values.padded) + part * i64(values.width)
                        places[r, c] = bind(self.at["sums"] + row + i64(c * VECTOR))
                        sums[r, c] = build.alloc_buffer((VECTOR,), "float32")
                        store(sums[r, c], 0, load(self.f32, places[r, c], VECTOR) * faded, VECTOR)
                with loop(words) as t:
                    at = bind(start + t * i64(values.width))
                    if kernel.ranges > 1 and rows.start == 0:
                        self.look_ahead(self.p.v, at, values.padded // unit, vectors)
                    weights = {
                        r: self.at["weights"] + i64(r * BLOCK) + t * i64(self.reading.factors)
                        for r in rows
                    }
                    self._multiply(self.p.v, at, weights, sums)
                for key, total in sums.items():
                    store(self.f32, places[key], load(total, 0, VECTOR), VECTOR)

    # --- results ---

    def _finish(self, group: Expr) -> None:
        kernel = self.kernel
        with loop(build.min(i64(kernel.group), self.rows - self.row(group, 0))) as j:
            row = bind(self.row(group, j))
            token = bind(self.token + row // i64(kernel.shared))
            head = self.head * i64(kernel.shared) + row % i64(kernel.shared)
            total = load(self.f32, self.at["totals"] + row * i64(VECTOR), VECTOR)
            total = bind(horizontal_sum(total, VECTOR))
            sums = bind(self.at["sums"] + row * i64(kernel.values.padded))
            place = bind(token * i64(kernel.heads) + head)
            if kernel.ranges == 1:
                divide(kernel, self.p, place, self.f32, sums, total)
            else:
                at = bind(self.part * self.count * i64(kernel.heads) + place)
                at = bind(at * i64(HEAD + kernel.values.padded))
                greatest = load(self.f32, self.at["greatest"] + group * i64(VECTOR) + j)
                store(self.p.out, at, greatest)
                store(self.p.out, at + i64(1), total)
                with loop(kernel.values.padded // VECTOR) as c:
                    part = load(self.f32, sums + c * i64(VECTOR), VECTOR)
                    store(self.p.out, at + i64(HEAD) + c * i64(VECTOR), part, VECTOR)


def divide(
    kernel: Attention, p: SimpleNamespace, place: Expr, sums: Buffer, at: Expr, total: Expr
) -> None:
    """Row `place` of the result, a (token, head): sums from `at` on, over the weights' total."""
    size = kernel.cache.size
    lanes = lanes_of(size)
    share = bind(constant(1.0) / total)
    first = bind((place % i64(kernel.heads)) // i64(kernel.shared) * i64(size))
    for d in range(0, size, lanes):
        value = load(sums, at + i64(d), lanes) * spread(share, lanes)
        if kernel.scales == CHANNEL:
            value = value * load(p.v_scale, first + i64(d), lanes)
        store(p.out, place * i64(size) + i64(d), value, lanes)


def _in_tree(lane: Expr, old: Expr, ancestors: Expr) -> Expr:
    """Which of 16 keys a token of a tree sees: all older than the step, and its ancestors."""
    one = tirx.const(1, "uint64")
    fresh = bind(lane - spread(old, VECTOR))
    place = build.cast(
        build.min(build.max(fresh, constant(0, VECTOR, "int32")), constant(63, VECTOR, "int32")),
        "uint64x16",
    )
    bits = (spread(ancestors, VECTOR) >> place) & spread(one, VECTOR)
    seen = bits != constant(0, VECTOR, "uint64")
    inside = fresh < constant(64, VECTOR, "int32")
    return tirx.Or(fresh < constant(0, VECTOR, "int32"), tirx.And(seen, inside))


def in_pairs(combine: Callable[[Expr, Expr], Expr], values: list[Expr]) -> Expr:
    """Four values, combined in pairs."""
    return combine(combine(values[0], values[1]), combine(values[2], values[3]))
