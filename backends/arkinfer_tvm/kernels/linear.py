"""Products with a quantized matrix in integers: x W^T, x rounded to int8 by `Quantize`.

A job is a slab of the matrix and some rows of x. Few rows: the slab is read once, in order, group
by group, and all rows use a line while it is in registers. Many rows: the codes of a few blocks
are unpacked into the thread's own memory, and tiles of rows pass over them. Either way `Tile` adds
in the same order, so that a row's result depends neither on how many rows a step has nor on who
computes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

from tvm.script.ir_builder import tirx as build

from arkinfer_tvm.cost import MOST_BLOCKS, MOST_ROWS, SIZES, Tiling, few_rows, tiling
from arkinfer_tvm.isa import Isa
from arkinfer_tvm.kernels.common import (
    Buffer,
    Expr,
    Kernel,
    accumulator,
    bind,
    constant,
    i64,
    jobs,
    load,
    loop,
    store,
)
from arkinfer_tvm.kernels.finish import Finish, write
from arkinfer_tvm.kernels.quantize import Inputs
from arkinfer_tvm.kernels.quantized import Reader
from arkinfer_tvm.kernels.tile import WORD, Tile, Where
from arkinfer_tvm.layout import LANES, LINE, Stream
from arkinfer_tvm.program import Dimension

_VECTOR = 4 * LANES
_MATRICES = ("weight", "other")


@dataclass(frozen=True)
class QuantLinear(Kernel):
    """out[t, n] = sum over k of x[t, k] * W[n, k], then as `finish` says.

    Attributes:
        stream: of the matrix, or of both.
        finish: what is done with the sums.
        most: rows of codes that a job has at most.
        digits: rows of codes for each row of x; see `Inputs`.
        tiling: None: as `cost.tiling` says. Rows beyond those that a step has are computed, too,
            and not written: the arrays that `Quantize` fills have room for a whole tile more.
    """

    family: ClassVar[str] = "quant_linear"
    streamed: ClassVar[str] = "weight"
    stream: Stream
    finish: Finish
    most: int
    digits: int = 1
    tiling: Tiling | None = None

    def parameters(self) -> dict[str, str]:
        return {
            **{name: "uint8" for name in _MATRICES[: self.finish.matrices]},
            "codes": "int32", "scales": "float32", "sums": "int32",
            **self.finish.parameters(),
            "out": "float32", "count": "int64",
        }  # fmt: skip

    def jobs(self, rows: Dimension) -> Dimension:
        return rows.tiles(self.most // self.digits).times(self.stream.slabs)

    @property
    def totals(self) -> int:
        """Bytes of the sums of one matrix: of some rows and a slab, or of all and some blocks."""
        few = min(self.most, MOST_ROWS) * self.stream.blocks
        return max(few, MOST_BLOCKS * (self.most + MOST_ROWS)) * _VECTOR

    @property
    def own(self) -> int:
        """The sums of each matrix, those of a group that has several shares, unpacked codes."""
        unpacked = MOST_BLOCKS * LANES * self.stream.inputs if self.most > 1 else 0
        return (self.finish.matrices + 1) * self.totals + unpacked

    def emit(self, isa: Isa, p: SimpleNamespace, first: Expr, last: Expr) -> None:
        count = bind(load(p.count, 0) * i64(self.digits))
        tiles = bind((count + i64(self.most - 1)) // i64(self.most))
        emitter = _Emitter(self, isa, p)
        with jobs(first, last) as job:
            slab = bind(job // tiles)
            row = bind(job % tiles * i64(self.most))
            emitter.job(slab, row, bind(build.min(i64(self.most), count - row)))


class _Emitter:
    """Emits the jobs of one kernel for one instruction set."""

    def __init__(self, kernel: QuantLinear, isa: Isa, p: SimpleNamespace) -> None:
        self.kernel, self.isa, self.p = kernel, isa, p
        self.stream, self.finish = kernel.stream, kernel.finish
        self.digits = kernel.digits
        self.inputs = Inputs.of(kernel.stream, kernel.digits)
        names = _MATRICES[: kernel.finish.matrices]
        self.readers = [Reader(isa, kernel.stream, getattr(p, name)) for name in names]
        self.sums = build.decl_buffer((1 << 40,), "float32", data=p.own.data)
        self.bases = [i * kernel.totals // WORD for i in range(len(names) + 1)]
        self.unpacked = len(self.bases) * kernel.totals
        self.tiling = kernel.tiling or tiling(isa, kernel.stream)
        self.blocks, self.rows = self.tiling.blocks, self.tiling.rows

    def job(self, slab: Expr, row: Expr, rows: Expr) -> None:
        """Rows [row, row + rows) and a slab."""
        most = self.kernel.most
        fitting = [size for size in SIZES if size <= min(most, few_rows(self.isa))]
        cases = [size for size in fitting if size >= self.digits] or [self.digits]
        many = (lambda: self._tall(slab, row, rows)) if most > cases[-1] else None
        self._choose(rows, cases, lambda size: self._direct(slab, row, rows, size), many)

    def _choose(
        self, rows: Expr, sizes: list[int], emit: Callable[[int], None],
        many: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        """emit(size) for the least size that has room for the rows, else `many`."""
        if len(sizes) == 1 and many is None:
            emit(sizes[0])
            return
        with build.If(rows <= i64(sizes[0])):
            with build.Then():
                emit(sizes[0])
            with build.Else():
                if len(sizes) > 1:
                    self._choose(rows, sizes[1:], emit, many)
                elif many is not None:
                    many()

    # --- few rows: whatever is read of the slab serves all of them at once ---

    def _direct(self, slab: Expr, row: Expr, rows: Expr, size: int) -> None:
        stream = self.stream
        for reader, base in zip(self.readers, self.bases, strict=False):
            start = reader.slab(slab)
            self._clear(base, size * stream.blocks)
            with loop(stream.groups) as group:
                record = reader.record(start, group)
                if stream.shares > 1:
                    self._clear(self.bases[-1], size * stream.blocks)
                self._direct_group(reader, record, group, row, size, base)
                if stream.shares > 1:
                    with loop(stream.blocks) as block:
                        tile = Tile(reader, self.p, self.inputs, row, size, block, 1)
                        totals, parts = self._kept(base, block), self._kept(self.bases[-1], block)
                        tile.add_parts(record, totals, parts)
        with loop(rows // i64(self.digits)) as i, loop(stream.blocks) as block:
            vector = bind(i * i64(self.digits * stream.blocks) + block)
            self._write(slab, block, row // i64(self.digits) + i, vector, stream.blocks)

    def _direct_group(
        self, reader: Reader, record: Expr, group: Expr, row: Expr, size: int, base: int
    ) -> None:
        stream = self.stream
        blocks = self.tiling.few[SIZES.index(size)]
        lines = stream.share // stream.span
        with loop(stream.shares) as share, loop(stream.blocks // blocks) as column:
            block = bind(column * i64(blocks))
            place = bind(group * i64(stream.shares) + share)
            tile = Tile(reader, self.p, self.inputs, row, size, block, blocks)
            sums, words = tile.begin(record, place), tile.words(place)
            with loop(lines) as number:
                line = bind(share * i64(lines) + number)
                if blocks < stream.blocks:
                    # Dot products of several rows hide from the processor what will be read; in
                    # the order of memory, which is not that of use, it helps to read ahead.
                    passed = (share * i64(stream.blocks // blocks) + column) * i64(lines) + number
                    for b in range(blocks):
                        reader.ask_ahead(record, passed * i64(blocks) + i64(b))
                codes = [
                    reader.planes(reader.line(record, line, block + i64(b))) for b in range(blocks)
                ]
                for plane, some in enumerate(zip(*codes, strict=True)):
                    tile.dot(sums, some, words + number * i64(stream.planes) + i64(plane))
            tile.add(
                sums, record, place, self._kept(base, block), self._kept(self.bases[-1], block)
            )

    def _kept(self, base: int, block: Expr) -> Where:
        """Sums of some rows and a whole slab in the thread's memory; the tile begins at `block`."""

        def where(row: int, column: int) -> tuple[Buffer, Expr]:
            at = i64(row * self.stream.blocks + column) + block
            return self.sums, i64(base) + at * i64(LANES)

        return where

    def _clear(self, base: int, vectors: int) -> None:
        with loop(vectors) as i:
            store(self.sums, i64(base) + i * i64(LANES), constant(0.0, LANES), LANES)

    # --- many rows: a few blocks at a time are unpacked, once for all tiles of rows ---

    def _tall(self, slab: Expr, row: Expr, rows: Expr) -> None:
        full = bind(rows // i64(self.rows))
        rest = bind(rows - full * i64(self.rows))
        with loop(self.stream.blocks // self.blocks) as column:
            block = bind(column * i64(self.blocks))
            for matrix, reader in enumerate(self.readers):
                start = reader.slab(slab)
                self._unpack(reader, start, block)

                def tile(first: Expr, size: int, matrix: int = matrix, start: Expr = start) -> None:
                    totals = self._tile(matrix, start, row + first, size, block)
                    self._leave(matrix, first, totals)

                with loop(full) as number:
                    tile(bind(number * i64(self.rows)), self.rows)
                with build.If(rest > i64(0)), build.Then():
                    sizes = [-(-self.rows // 2), self.rows]
                    self._choose(rest, sizes, lambda size: tile(full * i64(self.rows), size))
            with loop(rows // i64(self.digits)) as i, loop(self.blocks) as b:
                at = bind(i * i64(self.digits * self.blocks) + b)
                self._write(slab, block + b, row // i64(self.digits) + i, at, self.blocks)

    def _unpack(self, reader: Reader, start: Expr, block: Expr) -> None:
        """The codes of some blocks, four inputs after four; those of 8 bits stay where they are."""
        stream = self.stream
        if stream.planes == 1:
            return
        lines = stream.size // stream.span
        # A column is some lines of many; nothing but us can guess that the next one will follow.
        last = block + i64(self.blocks) >= i64(stream.blocks)
        next_column = i64(self.blocks * LINE)
        next_slab = i64(stream.slab - (stream.blocks - self.blocks) * LINE)
        ahead = bind(build.Select(last, next_slab, next_column))
        with loop(stream.groups) as group:
            record = reader.record(start, group)
            with loop(lines) as line:
                for b in range(self.blocks):
                    reader.ask(record + ahead, line, block + i64(b))
                out = bind((group * i64(lines) + line) * i64(stream.planes * self.blocks))
                for b in range(self.blocks):
                    codes = reader.planes(reader.line(record, line, block + i64(b)))
                    for plane, some in enumerate(codes):
                        at = out + i64(plane * self.blocks + b)
                        store(self.p.own, i64(self.unpacked) + at * i64(LINE), some, LINE)

    def _tile(
        self, matrix: int, start: Expr, row: Expr, rows: int, block: Expr
    ) -> list[list[Buffer]]:
        """The sums of a tile, by row and block."""
        stream, reader = self.stream, self.readers[matrix]
        tile = Tile(reader, self.p, self.inputs, bind(row), rows, block, self.blocks)
        totals = _zeros(rows, self.blocks)
        parts = _zeros(rows, self.blocks) if stream.shares > 1 else totals
        fours = stream.share // WORD
        with loop(stream.groups) as group:
            record = reader.record(start, group)
            if stream.shares > 1:
                _clear(parts)
            with loop(stream.shares) as share:
                place = bind(group * i64(stream.shares) + share)
                sums, words = tile.begin(record, place), tile.words(place)
                with loop(fours) as four:
                    codes = [
                        self._code(reader, record, share, place, four, block, b)
                        for b in range(self.blocks)
                    ]
                    tile.dot(sums, codes, words + four)
                tile.add(sums, record, place, _local(totals), _local(parts))
            if stream.shares > 1:
                tile.add_parts(record, _local(totals), _local(parts))
        return totals

    def _code(
        self, reader: Reader, record: Expr, share: Expr, place: Expr, four: Expr, block: Expr,
        b: int,
    ) -> Expr:  # fmt: skip
        """Four inputs of a block's channels: uint8x64."""
        fours = i64(self.stream.share // WORD)
        if self.stream.planes == 1:
            return reader.line(record, share * fours + four, block + i64(b))
        at = (place * fours + four) * i64(self.blocks) + i64(b)
        return bind(load(self.p.own, i64(self.unpacked) + at * i64(LINE), LINE))

    def _leave(self, matrix: int, first: Expr, totals: list[list[Buffer]]) -> None:
        """Keeps the sums of a tile whose first row is that one of the job."""
        for i, row_totals in enumerate(totals):
            for b, total in enumerate(row_totals):
                at = i64(self.bases[matrix]) + i64((i * self.blocks + b) * LANES)
                at = at + first * i64(self.blocks * LANES)
                store(self.sums, at, load(total, 0, LANES), LANES)

    def _write(self, slab: Expr, block: Expr, row: Expr, vector: Expr, blocks: int) -> None:
        """Writes the finished sums of a row of x and a block.

        They are kept as vector `vector` of each matrix, those of the next digit `blocks` after it.
        """
        stream = self.stream
        channel = bind(slab * i64(stream.channels) + block * i64(LANES))
        final = [
            bind(
                self._digits(i64(base) + vector * i64(LANES), blocks * LANES)
                * reader.factor(reader.slab(slab), block)
            )
            for base, reader in zip(self.bases, self.readers, strict=False)
        ]
        write(
            self.finish, self.isa, self.p, bind(row), channel, stream.rows, stream.channels, final
        )

    def _digits(self, at: Expr, apart: int) -> Expr:
        """The sum of a vector of each digit."""
        first, *others = (
            load(self.sums, at + i64(digit * apart), LANES) for digit in range(self.digits)
        )
        return first + others[0] if others else first


def _zeros(rows: int, blocks: int) -> list[list[Buffer]]:
    return [[accumulator(LANES) for _ in range(blocks)] for _ in range(rows)]


def _clear(sums: list[list[Buffer]]) -> None:
    for total in (each for row in sums for each in row):
        store(total, 0, constant(0.0, LANES), LANES)


def _local(sums: list[list[Buffer]]) -> Where:
    return lambda row, block: (sums[row][block], i64(0))
