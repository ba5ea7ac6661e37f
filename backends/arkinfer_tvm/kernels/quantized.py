"""How kernels read a matrix in packing's canonical form, as it lies in the file.

Source: `arkinfer.packing.QuantizedTensor`. Knows no particular kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

from tvm.script.ir_builder import tirx as build

from arkinfer_tvm.kernels.common import (
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

    Attributes:
        bits: 2, 4 or 8, so that no code lies in two bytes.
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
        """Codes in a byte."""
        return 8 // self.bits

    @property
    def bytes(self) -> int:
        """Of the codes of one group."""
        return self.group * self.bits // 8

    @property
    def lanes(self) -> int:
        """Bytes of one vector."""
        return lanes_of(self.bytes)

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
        stride = -(-self.groups * self.bits // 8)
        byte = load(p.zero, row * i64(stride) + g // i64(self.planes))
        zero = self._shifted(byte, g % i64(self.planes))
        return scale, bind(build.cast(zero, "float32"))

    def value(self, code: Expr, terms: tuple[Expr, Expr], lanes: int = 1) -> Expr:
        """Codes as the numbers that they stand for, float32."""
        scale, offset = (spread(term, lanes) for term in terms)
        wide = build.cast(build.cast(code, kind("int32", lanes)), kind("float32", lanes))
        if self.offset == "min":
            return bind(wide * scale + offset)
        return bind((wide - offset) * scale)

    def code(self, p: SimpleNamespace, row: Expr, g: Expr, i: Expr) -> Expr:
        """Code i of a group, as uint8."""
        start = (row * i64(self.groups) + g) * i64(self.bytes)
        byte = load(p.codes, start + i // i64(self.planes))
        return self._shifted(byte, i % i64(self.planes))

    def _shifted(self, byte: Expr, place: Expr) -> Expr:
        if self.planes == 1:
            return byte
        shift = build.cast(place * i64(self.bits), "uint8")
        return (byte >> shift) & constant((1 << self.bits) - 1, 1, "uint8")

    def plane(self, packed: Expr, place: int) -> Expr:
        """Codes number `place` of `lanes` bytes, as uint8."""
        if self.planes == 1:
            return packed
        mask = constant((1 << self.bits) - 1, self.lanes, "uint8")
        return (packed >> constant(place * self.bits, self.lanes, "uint8")) & mask

    def column(self, p: SimpleNamespace, k: Expr) -> Expr:
        """Which input the k-th code of a row belongs to, int64."""
        return build.cast(load(p.order, k), "int64") if self.order else k
