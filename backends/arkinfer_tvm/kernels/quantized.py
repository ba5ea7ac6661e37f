"""How kernels read a matrix in packing's canonical form, as it lies in the file.

Source: `arkinfer.packing.QuantizedTensor`. Knows no particular kernel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace

from tvm.script.ir_builder import tirx as build

from arkinfer_tvm.kernels.common import (
    Buffer,
    Expr,
    bind,
    constant,
    i64,
    kind,
    lanes_of,
    load,
    spread,
    stored,
    widen,
)


@dataclass(frozen=True)
class Layout:
    """The parts of a quantized matrix with K = `columns`.

    `planes` codes fill `unit` bytes without a rest: 2 fill 1 where codes have 4 bits, 8 fill 3
    where they have 3. A vector of `lanes` codes takes one code from each of `lanes` units.

    Attributes:
        bits: 2 to 8.
        group: inputs that share a scale, in whole bytes.
        columns: K.
        offset: "none", "zero" or "min".
        scale: IR dtype of scales and minima.
        order: whether the inputs are permuted.
    """

    bits: int
    group: int
    columns: int
    offset: str
    scale: str
    order: bool

    @property
    def groups(self) -> int:
        return self.columns // self.group

    @property
    def planes(self) -> int:
        return 8 // math.gcd(self.bits, 8)

    @property
    def unit(self) -> int:
        return self.bits // math.gcd(self.bits, 8)

    @property
    def bytes(self) -> int:
        """Of the codes of one group."""
        return self.group * self.bits // 8

    @property
    def lanes(self) -> int:
        return lanes_of(self.group // self.planes)

    def parameters(self) -> dict[str, str]:
        """The parts that a kernel takes, named as packing names them."""
        kinds = {"codes": "uint8", "scale": stored(self.scale)}
        if self.offset == "zero":
            kinds["zero"] = "uint8"
        if self.offset == "min":
            kinds["min"] = stored(self.scale)
        if self.order:
            kinds["order"] = "int32"
        return kinds

    def terms(self, p: SimpleNamespace, row: Expr, g: Expr) -> tuple[Expr, Expr]:
        """Scale and offset of a group: float32 scalars, computed once."""
        at = bind(row * i64(self.groups) + g)
        scale = bind(widen(load(p.scale, at), self.scale))
        if self.offset == "min":
            return scale, bind(widen(load(p.min, at), self.scale))
        if self.offset == "none":
            return scale, constant(float(1 << (self.bits - 1)))
        size = -(-self.groups * self.bits // 8)
        zero = self._code(p.zero, bind(row * i64(size)), size, g)
        return scale, bind(build.cast(zero, "float32"))

    def value(self, code: Expr, terms: tuple[Expr, Expr], lanes: int = 1) -> Expr:
        """Codes as the numbers that they stand for, float32."""
        scale, offset = (spread(term, lanes) for term in terms)
        wide = build.cast(build.cast(code, kind("int32", lanes)), kind("float32", lanes))
        if self.offset == "min":
            return bind(wide * scale + offset)
        return bind((wide - offset) * scale)

    def start(self, row: Expr, g: Expr) -> Expr:
        """The first byte of a group."""
        return bind((row * i64(self.groups) + g) * i64(self.bytes))

    def code(self, p: SimpleNamespace, row: Expr, g: Expr, i: Expr) -> Expr:
        """Code i of a group, as uint8."""
        return self._code(p.codes, self.start(row, g), self.bytes, i)

    def _code(self, packed: Buffer, start: Expr, size: int, i: Expr) -> Expr:
        """Code i of `size` packed bytes; it may end in the byte after the one it begins in."""
        bit = bind(i * i64(self.bits))
        byte = bind(bit // i64(8))
        shift = bind(build.cast(bit % i64(8), "uint8"))
        low = load(packed, start + byte) >> shift
        if self.unit > 1:
            after = load(packed, start + build.min(byte + i64(1), i64(size - 1)))
            # In two steps, because a shift by 8 is undefined.
            low = low | ((after << constant(1, 1, "uint8")) << (constant(7, 1, "uint8") - shift))
        return low & constant((1 << self.bits) - 1, 1, "uint8")

    def packed(self, p: SimpleNamespace, first: Expr) -> list[Expr]:
        """The bytes of `lanes` units that begin at byte `first`, one vector per byte of a unit."""
        return [
            bind(load(p.codes, first + i64(byte), self.lanes, self.unit))
            for byte in range(self.unit)
        ]

    def plane(self, packed: list[Expr], place: int) -> Expr:
        """Code number `place` of every unit, as uint8."""
        if self.bits == 8:
            return packed[0]
        byte, shift = divmod(place * self.bits, 8)
        found = packed[byte] >> self._u8(shift)
        if shift + self.bits > 8:
            found = found | (packed[byte + 1] << self._u8(8 - shift))
        return found & self._u8((1 << self.bits) - 1)

    def _u8(self, value: int) -> Expr:
        return constant(value, self.lanes, "uint8")
