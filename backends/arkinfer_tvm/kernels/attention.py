"""Softmax attention over a cache: decoding, short steps and prefill from one form.

A job is a tile of query vectors of one kv head, and a range of the keys. Its query vectors share
each word that is read of the cache: it goes over the keys block by block, and for a group of up to
8 query vectors it computes the scores of a block, turns them into weights relative to the greatest
score so far, and adds the weighted values, all in registers but for the sums.

Where there are several ranges, each gives sums that are not divided yet, and `Combine` joins them.
Ranges depend on the number of keys only, so that results do not depend on the number of threads.
Softmax in one pass: Milakov and Gimelshein 2018, algorithm 3; ranges: Dao et al. 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

from tvm.script.ir_builder import tirx as build

from arkinfer_tvm.isa import Isa
from arkinfer_tvm.kernels.attention_codes import CodeTile
from arkinfer_tvm.kernels.attention_tile import CHANNEL, HEAD, MASKED, Tile, divide
from arkinfer_tvm.kernels.common import (
    Expr,
    Kernel,
    Strided,
    accumulator,
    bind,
    constant,
    i64,
    jobs,
    load,
    loop,
    spread,
    store,
)
from arkinfer_tvm.kernels.reading import VECTOR, WORD
from arkinfer_tvm.program import Dimension
from arkinfer_tvm.storage import BLOCK, Cache

GROUP = 8
"""The most query vectors that share a word in registers."""
_JOBS = 32
"""Of attention when decoding: enough that threads end at about the same time."""
_LEAST = 4
"""Blocks of a range: a shorter one costs more to join than it saves."""
_ROWS = 32
"""Query vectors of a tile."""
_SHORT_RANGES = 8
"""Of the keys in short steps."""


@dataclass(frozen=True)
class Attention(Kernel):
    """Causal softmax attention of the last `count` of `length` tokens.

    Attributes:
        q: rows of all query heads of a token.
        heads: query heads.
        cache: the keys' cache; the values' is of the same form.
        scale: of the scores.
        scales: CHANNEL or TOKEN of int8 caches; "" for others.
        tokens: of a tile.
        ranges: of the keys; 1: the result is written, else it is sums for `Combine`,
            [ranges, count, heads, HEAD + padded].
        tree: of the step's own tokens each sees those whose bits are set in `ancestors` (uint64
            [count], itself included) instead of all up to itself; at most 64 tokens.
    """

    family: ClassVar[str] = "attention"
    q: Strided
    heads: int
    cache: Cache
    scale: float
    scales: str = ""
    tokens: int = 1
    ranges: int = 1
    tree: bool = False

    def parameters(self) -> dict[str, str]:
        word = WORD[self.cache.dtype]
        kinds = {"q": "float32", "k": word, "v": word}
        if self.scales:
            kinds |= {"k_scale": "float32", "v_scale": "float32"}
        if self.tree:
            kinds["ancestors"] = "uint64"
        return {**kinds, "out": "float32", "length": "int64", "count": "int64"}

    def jobs(self, rows: Dimension) -> Dimension:
        return rows.tiles(self.tokens).times(self.cache.heads * self.ranges)

    # --- sizes ---

    @property
    def shared(self) -> int:
        """Query heads of a kv head."""
        return self.heads // self.cache.heads

    @property
    def values(self) -> Cache:
        return Cache(self.cache.heads, self.cache.size, self.cache.dtype, "values")

    @property
    def sums(self) -> int:
        """Floats that a range gives for each (token, head)."""
        return HEAD + self.values.padded

    @property
    def group(self) -> int:
        """Query vectors of a group: as even as can be, at most 8."""
        rows = self.tokens * self.shared
        return -(-rows // -(-rows // GROUP))

    @property
    def groups(self) -> int:
        return -(-self.tokens * self.shared // self.group)

    @property
    def dims(self) -> int:
        """Floats of a query vector."""
        return -(-self.cache.size // VECTOR) * VECTOR

    @property
    def places(self) -> dict[str, int]:
        """Where things are in a thread's own memory, in words, and after all of them "end"."""
        rows = self.groups * self.group
        sizes = {
            "query": rows * self.dims,
            "sums": rows * self.values.padded,
            "totals": rows * VECTOR,
            "greatest": self.groups * VECTOR,
            "scores": self.group * BLOCK,
            "weights": self.group * BLOCK,
            "fresh": VECTOR,
            "fade": VECTOR,
            "row": self.dims,
            "query steps": rows,
            "offsets": rows,
            "weight steps": VECTOR,
            "weight factors": VECTOR,
        }
        places, at = {}, 0
        for name, size in sizes.items():
            places[name] = at
            at += -(-size // VECTOR) * VECTOR
        return {**places, "end": at}

    @property
    def own(self) -> int:
        return self.places["end"] * 4

    # --- code ---

    def emit(self, isa: Isa, p: SimpleNamespace, first: Expr, last: Expr) -> None:
        count, length = bind(load(p.count, 0)), bind(load(p.length, 0))
        tiles = bind((count + i64(self.tokens - 1)) // i64(self.tokens))
        per, used = _ranges(length, self.ranges)
        form = CodeTile if CodeTile.fits(isa, self.cache) else Tile
        with jobs(first, last) as job:
            tile = bind(job % tiles)
            part = bind((job // tiles) % i64(self.ranges))  # a head's ranges one after the other
            head = bind(job // (tiles * i64(self.ranges)))
            with build.If(part < used), build.Then():
                form(self, isa, p, count, length, tile, head, part, per).run()


def tiles(most: int, heads: int, cache: Cache) -> tuple[int, int]:
    """Tokens of a tile, and ranges of keys, for steps of up to `most` tokens.

    Ranges where there are too few tiles for many threads; tiles that share what is read of the
    cache, and whose queries and sums stay near the processor.
    """
    if most == 1:
        return 1, max(1, _JOBS // cache.heads)
    shared = heads // cache.heads
    tokens = max(1, min(most, _ROWS // shared))
    return tokens, _SHORT_RANGES if most <= BLOCK else 1


@dataclass(frozen=True)
class Combine(Kernel):
    """The result of attention whose keys were split into ranges: a job is a (token, head)."""

    family: ClassVar[str] = "combine"
    attention: Attention

    def parameters(self) -> dict[str, str]:
        kinds = {"sums": "float32", "length": "int64", "count": "int64"}
        if self.attention.scales == CHANNEL:
            kinds["v_scale"] = "float32"
        return {**kinds, "out": "float32"}

    def jobs(self, rows: Dimension) -> Dimension:
        return rows.times(self.attention.heads)

    def emit(self, isa: Isa, p: SimpleNamespace, first: Expr, last: Expr) -> None:
        kernel = self.attention
        stride = i64(HEAD + kernel.values.padded)
        per_range = bind(load(p.count, 0) * i64(kernel.heads) * stride)
        _, used = _ranges(load(p.length, 0), kernel.ranges)
        with jobs(first, last) as job:
            at = bind(job * stride)
            greatest, total = accumulator(1, MASKED), accumulator(1)
            mixed = build.alloc_buffer((kernel.values.padded,), "float32")
            columns = range(0, kernel.values.padded, VECTOR)
            for c in columns:
                store(mixed, c, constant(0.0, VECTOR), VECTOR)
            with loop(used) as i:
                found = load(p.sums, at + i * per_range)
                store(greatest, 0, build.max(load(greatest, 0), found))
            with loop(used) as i:
                start = bind(at + i * per_range)
                weight = isa.exp2(load(p.sums, start) - load(greatest, 0), lanes=1)
                store(total, 0, load(total, 0) + weight * load(p.sums, start + i64(1)))
                for c in columns:
                    value = load(p.sums, start + i64(HEAD + c), VECTOR)
                    value = isa.fma(value, spread(weight, VECTOR), load(mixed, c, VECTOR))
                    store(mixed, c, value, VECTOR)
            divide(kernel, p, job, mixed, i64(0), load(total, 0))


def _ranges(length: Expr, count: int) -> tuple[Expr, Expr]:
    """Blocks of a range of `length` keys, and how many ranges have any."""
    blocks = bind((length + i64(BLOCK - 1)) // i64(BLOCK))
    per = bind(build.max((blocks + i64(count - 1)) // i64(count), i64(_LEAST)))
    return per, bind((blocks + per - i64(1)) // per)
