"""How kernels read a `Stream`: codes, scales and offsets as vectors of 16 channels.

Source: `arkinfer_tvm.layout`. Knows no particular kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.script.ir_builder import tirx as build

from arkinfer_tvm.isa import Isa
from arkinfer_tvm.kernels.common import Buffer, Expr, bind, constant, i64, load, prefetch, spread
from arkinfer_tvm.layout import LANES, LINE, Stream

_NEAR = 8192
"""Bytes: time for the memory to answer, and room in the smallest first cache."""


@dataclass(frozen=True)
class Reader:
    """A stream in the memory of `weight` (uint8), as an instruction set reads it."""

    isa: Isa
    stream: Stream
    weight: Buffer

    def slab(self, number: Expr) -> Expr:
        """Where a slab begins."""
        return bind(number * i64(self.stream.slab))

    def record(self, slab: Expr, group: Expr) -> Expr:
        return bind(slab + group * i64(self.stream.record))

    def line(self, record: Expr, line: Expr, block: Expr) -> Expr:
        """Line `line` of a block, as it is stored: uint8x64."""
        at = (line * i64(self.stream.blocks) + block) * i64(LINE)
        return bind(load(self.weight, record + at, LINE))

    def ask(self, record: Expr, line: Expr, block: Expr) -> None:
        """Asks for a line that will be read, of any record, also of one that is not there."""
        at = (line * i64(self.stream.blocks) + block) * i64(LINE)
        prefetch(self.weight, record + at)

    def ask_ahead(self, record: Expr, number: Expr) -> None:
        """Asks for what lies a while behind line `number` of a record, lines counted as they lie.

        That is a record's codes at least: nearer lines would be asked for after they were read.
        Where these are few, to the first cache: on Zen 4 that is faster, and slower for many.
        """
        near = self.stream.codes <= _NEAR
        at = record + number * i64(LINE) + i64(_NEAR if near else self.stream.record)
        prefetch(self.weight, at, level=1 if near else 2)

    def planes(self, line: Expr) -> list[Expr]:
        """The codes of a line, four inputs of each channel at a time: uint8x64."""
        bits = self.stream.bits
        if bits == 8:
            return [line]
        mask = constant((1 << bits) - 1, LINE, "uint8")
        wide = build.reinterpret("uint16x32", line)  # there is no shift of bytes
        shifted = (
            build.reinterpret("uint8x64", wide >> constant(shift, LINE // 2, "uint16"))
            if shift
            else line
            for shift in range(0, 8, bits)
        )
        return [bind(each & mask) for each in shifted]

    def code(self, line: Expr, number: int) -> Expr:
        """Input `number` of a line, as the stored code of each channel: int32x16."""
        bits = self.stream.bits
        plane, byte = divmod(number, 4)
        if self.stream.signed:
            up, down = (constant(n, LANES, "int32") for n in (24 - 8 * byte, 24))
            return bind((build.reinterpret("int32x16", line) << up) >> down)
        words = build.reinterpret("uint32x16", line)
        shifted = words >> constant(8 * byte + bits * plane, LANES, "uint32")
        low = shifted & constant((1 << bits) - 1, LANES, "uint32")
        return bind(build.reinterpret("int32x16", low))

    def dot(self, total: Expr, codes: Expr, activations: Expr) -> Expr:
        """total + codes * activations, in int32, exact: see `Isa.dot`."""
        most = self.isa.most_code
        if self.stream.signed or (1 << self.stream.bits) - 1 <= most:
            return self.isa.dot(total, codes, activations)
        low, high = (constant(mask, LINE, "uint8") for mask in (0x7F, 0x80))
        total = self.isa.dot(total, codes & low, activations)
        return self.isa.dot(total, codes & high, activations)

    def scale(self, record: Expr, block: Expr) -> Expr:
        """The scales of a block's channels, float32, each its channel's factor times too small."""
        at = record + i64(self.stream.codes)
        if self.stream.scale == "f32":
            return self._floats(at + block * i64(4 * LANES))
        stored = load(self.weight, at + block * i64(2 * LANES), 2 * LANES)
        return bind(self.isa.half(build.reinterpret("uint16x16", stored), LANES))

    def minimum(self, record: Expr, block: Expr) -> Expr:
        """The minima of a block's channels."""
        return self._floats(record + i64(self.stream.minima) + block * i64(4 * LANES))

    def factor(self, slab: Expr, block: Expr) -> Expr:
        """The factors of a block's channels."""
        return self._floats(slab + i64(self.stream.factors) + block * i64(4 * LANES))

    def zero(self, record: Expr, block: Expr) -> Expr:
        """int32x16: the stored code that stands for 0 (for the minimum, where there is one)."""
        stream = self.stream
        below = 128 if stream.signed else 0
        if stream.offset == "zero":
            at = record + i64(stream.zeros) + block * i64(LANES)
            wide = build.cast(load(self.weight, at, LANES), "int32x16")
            return bind(wide - constant(below, LANES, "int32")) if below else bind(wide)
        middle = stream.middle if stream.offset == "none" else 0
        return constant(middle - below, LANES, "int32")

    def without_zero(self, record: Expr, block: Expr, total: Expr) -> Expr:
        """int32x16: what a dot product begins with, given the activations' sum (int32)."""
        zero = self.zero(record, block)
        if self.stream.offset == "zero":
            return constant(0, LANES, "int32") - zero * spread(total, LANES)
        below = 128 if self.stream.signed else 0
        middle = self.stream.middle if self.stream.offset == "none" else 0
        return spread(total * constant(below - middle, 1, "int32"), LANES)

    def _floats(self, at: Expr) -> Expr:
        stored = load(self.weight, at, 4 * LANES)
        return bind(build.reinterpret("float32x16", stored))
