"""Products in float32: with a matrix of floats, and with a quantized one whose activations are to
stay as they are. A job is a slab of the matrix and some rows of x.

A sum goes over the inputs in order, one after the other, whatever the number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    i64,
    jobs,
    load,
    loop,
    spread,
    store,
    widen,
)
from arkinfer_tvm.kernels.finish import Finish, write
from arkinfer_tvm.kernels.quantized import Reader
from arkinfer_tvm.layout import LANES, DenseStream, Stream
from arkinfer_tvm.program import Dimension

TILE = 4
"""Rows of x that share a vector of the matrix."""
_MATRICES = ("weight", "other")


def blocks_of(isa: Isa, stream: Stream | DenseStream, rows: int) -> int:
    """Blocks of a tile: as many as have sums and weights in registers."""
    sizes = range(stream.blocks, 1, -1)
    return next(
        (
            size
            for size in sizes
            if stream.blocks % size == 0 and isa.per_block * size * (rows + 1) + 2 <= isa.registers
        ),
        1,
    )


@dataclass(frozen=True)
class FloatLinear(Kernel):
    """out[t, n] = sum over k of x[t, k] * W[n, k], then as `finish` says.

    Attributes:
        x: rows of x; for a quantized matrix in the order of its inputs, as `Arrange` leaves them.
        stream: of the matrix, or of both.
        finish: what is done with the sums.
        most: rows of x that a job has at most.
    """

    family: ClassVar[str] = "linear"
    streamed: ClassVar[str] = "weight"
    x: Strided
    stream: Stream | DenseStream
    finish: Finish
    most: int

    def parameters(self) -> dict[str, str]:
        return {
            "x": "float32",
            **{name: "uint8" for name in _MATRICES[: self.finish.matrices]},
            **self.finish.parameters(),
            "out": "float32", "count": "int64",
        }  # fmt: skip

    def jobs(self, rows: Dimension) -> Dimension:
        return rows.tiles(self.most).times(self.stream.slabs)

    def emit(self, isa: Isa, p: SimpleNamespace, first: Expr, last: Expr) -> None:
        count = bind(load(p.count, 0))
        tiles = bind((count + i64(self.most - 1)) // i64(self.most))
        with jobs(first, last) as job:
            slab = bind(job // tiles)
            row = bind(job % tiles * i64(self.most))
            rows = bind(build.min(i64(self.most), count - row))
            if self.most >= TILE:
                full = bind(rows // i64(TILE))
                self._tiles(isa, p, slab, row, full, TILE)
                row, rows = bind(row + full * i64(TILE)), bind(rows - full * i64(TILE))
            self._tiles(isa, p, slab, row, rows, 1)

    def _tiles(
        self, isa: Isa, p: SimpleNamespace, slab: Expr, row: Expr, count: Expr, rows: int
    ) -> None:
        """`count` tiles of so many rows, for each of the slab's groups of blocks."""
        stream = self.stream
        blocks = blocks_of(isa, stream, rows * self.finish.matrices)
        with loop(stream.blocks // blocks) as column, loop(count) as number:
            block = bind(column * i64(blocks))
            first = bind(row + number * i64(rows))
            sums = [
                self._sums(isa, p, getattr(p, name), slab, block, blocks, first, rows)
                for name in _MATRICES[: self.finish.matrices]
            ]
            for i in range(rows):
                for b in range(blocks):
                    at = bind(slab * i64(stream.channels) + (block + i64(b)) * i64(LANES))
                    final = [bind(load(each[i][b], 0, LANES)) for each in sums]
                    write(
                        self.finish, isa, p, bind(first + i64(i)), at, stream.rows,
                        stream.channels, final,
                    )  # fmt: skip

    def _sums(
        self, isa: Isa, p: SimpleNamespace, weight: Buffer, slab: Expr, block: Expr, blocks: int,
        row: Expr, rows: int,
    ) -> list[list[Buffer]]:  # fmt: skip
        """The sums of a tile, by row and block."""
        totals = [[accumulator(LANES) for _ in range(blocks)] for _ in range(rows)]
        if isinstance(self.stream, DenseStream):
            start = bind(slab * i64(self.stream.slab))
            with loop(self.stream.columns) as k:
                line = bind((k * i64(self.stream.blocks) + block) * i64(LANES))
                values = [
                    bind(dense(self.stream, weight, start, line + i64(b * LANES)))
                    for b in range(blocks)
                ]
                self._add(isa, p, totals, row, k, values)
        else:
            reader = Reader(isa, self.stream, weight)
            self._quantized(reader, p, totals, slab, block, row)
        return totals

    def _quantized(
        self, reader: Reader, p: SimpleNamespace, totals: list[list[Buffer]], slab: Expr,
        block: Expr, row: Expr,
    ) -> None:  # fmt: skip
        """Sums over groups; but for the minima, a group's scale comes last."""
        stream, isa = reader.stream, reader.isa
        blocks, start = range(len(totals[0])), reader.slab(slab)
        least = stream.offset == "min"
        parts = totals if least else [[accumulator(LANES) for _ in blocks] for _ in totals]
        lines = stream.size // stream.span
        with loop(stream.groups) as group:
            record = reader.record(start, group)
            here = [bind(block + i64(b)) for b in blocks]
            scales = [reader.scale(record, each) for each in here]
            zeros = [reader.zero(record, each) for each in here]
            offsets = [reader.minimum(record, each) for each in here] if least else []
            if not least:
                for part in (each for some in parts for each in some):
                    store(part, 0, constant(0.0, LANES), LANES)
            with loop(lines) as line:
                read = [reader.line(record, line, each) for each in here]
                for i in range(stream.span):
                    values = [
                        bind(build.cast(reader.code(each, i) - zero, "float32x16"))
                        for each, zero in zip(read, zeros, strict=True)
                    ]
                    for b, offset in enumerate(offsets):
                        values[b] = bind(isa.fma(values[b], scales[b], offset))
                    k = (group * i64(lines) + line) * i64(stream.span) + i64(i)
                    self._add(isa, p, parts, row, bind(k), values)
            if not least:
                for some, sums in zip(parts, totals, strict=True):
                    for part, total, scale in zip(some, sums, scales, strict=True):
                        before = load(total, 0, LANES)
                        store(total, 0, isa.fma(load(part, 0, LANES), scale, before), LANES)
        for sums in totals:
            for b, total in zip(blocks, sums, strict=True):
                factor = reader.factor(start, bind(block + i64(b)))
                store(total, 0, load(total, 0, LANES) * factor, LANES)

    def _add(
        self, isa: Isa, p: SimpleNamespace, sums: list[list[Buffer]], row: Expr, k: Expr,
        values: Sequence[Expr],
    ) -> None:  # fmt: skip
        for i, some in enumerate(sums):
            x = bind(spread(load(p.x, self.x.at(row + i64(i), k)), LANES))
            for total, value in zip(some, values, strict=True):
                store(total, 0, isa.fma(value, x, load(total, 0, LANES)), LANES)


def dense(stream: DenseStream, weight: Buffer, slab: Expr, at: Expr, lanes: int = LANES) -> Expr:
    """Numbers of a slab that begins at byte `slab`, as float32.

    Args:
        at: the first one's place in the slab, in numbers.
    """
    size = stream.itemsize
    stored = load(weight, slab + at * i64(size), lanes * size)
    suffix = "" if lanes == 1 else f"x{lanes}"
    kind = "float32" if stream.dtype == "f32" else "uint16"
    return widen(build.reinterpret(f"{kind}{suffix}", stored), stream.dtype, lanes)
