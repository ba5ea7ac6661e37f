"""What a kernel asks of an instruction set, and what all of them share. Knows no kernel.

Vectors have 16 lanes here, whatever the registers' width: 16 x 32 bits are one register of AVX-512,
two of AVX2 and four of NEON. An intrinsic takes registers, so that an instruction set cuts its
operands and joins the results; LLVM makes no instruction of either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

from tvm import tirx as _tirx
from tvm.script.ir_builder import tirx as build

Expr: TypeAlias = Any
"""An expression of TVM."""

tirx: Any = _tirx
"""Typed as anything: its constructors convert integers, which their annotations do not say."""

LANES = 16

EXP2 = (1.00000007, 0.693146967, 0.240221197, 0.0555071327, 0.00967554133, 0.00132764719)
"""2^x for x in [-1/2, 1/2] with a relative error below 8e-8; terms from a weighted fit."""

EXP2_SHORT = (0.999928074, 0.693260986, 0.242611122, 0.055171668)
"""The same, below 8e-5: a fiftieth of what bfloat16 rounds."""


class Isa(ABC):
    """An instruction set.

    Attributes:
        name: as `arkinfer_tvm.cpu.ISAS` and the targets name it.
        arch: as `platform.machine()` says it.
        cpu: what LLVM calls the least processor; "": the architecture's baseline.
        features: what LLVM is told beyond that.
        width: bytes of a vector register.
        registers: how many of them there are.
        l2: bytes of the second cache that a core of its processors has at least.
        spills: whether a sum outside of registers costs less than reading out of order; measured.
        most_code: the largest code that `dot` multiplies without losing a bit.
        paired: whether `pair_dot` is one instruction.
        code: LLVM assembly of functions that are called by name, for what TVM has no type for.
    """

    name: ClassVar[str]
    arch: ClassVar[str]
    cpu: ClassVar[str] = ""
    features: ClassVar[tuple[str, ...]] = ()
    width: ClassVar[int]
    registers: ClassVar[int]
    l2: ClassVar[int]
    spills: ClassVar[bool] = False
    most_code: ClassVar[int]
    paired: ClassVar[bool] = False
    code: ClassVar[str] = ""

    @property
    def target(self) -> dict[str, Any]:
        """What TVM is told. Level 2, because level 3 makes kernels larger by a quarter, and none
        faster: what there is to unroll is unrolled here."""
        facts: dict[str, Any] = {
            "kind": "llvm",
            "mtriple": f"{self.arch}-linux-gnu",
            "opt-level": 2,
        }
        if self.cpu:
            facts["mcpu"] = self.cpu
        if self.features:
            facts["mattr"] = list(self.features)
        return facts

    @property
    def per_block(self) -> int:
        """Registers that 16 lanes of 32 bits fill."""
        return 4 * LANES // self.width

    @abstractmethod
    def dot(self, total: Expr, codes: Expr, activations: Expr) -> Expr:
        """int32x16: total[i] + sum over j < 4 of codes[4i + j] * activations[4i + j].

        Args:
            total: int32x16.
            codes: uint8x64, each at most `most_code`.
            activations: int8x64, each at least -127.
        """

    def fma(self, a: Expr, b: Expr, c: Expr, lanes: int = LANES) -> Expr:
        """a * b + c in float32, rounded once."""
        kind = "float32" if lanes == 1 else f"float32x{lanes}"
        name = "llvm.fma.f32" if lanes == 1 else f"llvm.fma.v{lanes}f32"
        return build.call_llvm_pure_intrin(kind, name, a, b, c)

    def half(self, bits: Expr, lanes: int = LANES) -> Expr:
        """float32: float16 numbers, given as uint16; exact."""
        suffix = "" if lanes == 1 else f"x{lanes}"
        return build.cast(build.reinterpret(f"float16{suffix}", bits), f"float32{suffix}")

    def pair_dot(self, total: Expr, pairs: Expr, factors: Expr) -> Expr:
        """float32x16: total[i] + the products of two bfloat16 in pairs[i] and factors[i].

        Both are uint32x16, the first number of a pair in the low half. Here without an instruction
        for it: two multiplications in float32.
        """
        low = tirx.Broadcast(tirx.const(16, "uint32"), LANES)
        high = tirx.Broadcast(tirx.const(0xFFFF0000, "uint32"), LANES)
        a, b = (build.reinterpret("float32x16", x << low) for x in (pairs, factors))
        total = build.Bind(self.fma(a, b, total))
        a, b = (build.reinterpret("float32x16", x & high) for x in (pairs, factors))
        return self.fma(a, b, total)

    def bfloat(self, value: Expr, lanes: int = LANES) -> Expr:
        """uint16: finite float32 numbers rounded to bfloat16, ties to even."""

        def u32(number: int) -> Expr:
            return _number(number, "uint32", lanes)

        suffix = "" if lanes == 1 else f"x{lanes}"
        bits = build.Bind(build.reinterpret(f"uint32{suffix}", value))
        rounded = bits + u32(0x7FFF) + ((bits >> u32(16)) & u32(1))
        return build.cast(rounded >> u32(16), f"uint16{suffix}")

    def exp2(self, x: Expr, terms: tuple[float, ...] = EXP2, lanes: int = LANES) -> Expr:
        """2^x in float32 for x up to 127; what lies below 2^-126 is about 0.

        Args:
            x: float32.
            terms: of a polynomial for [-1/2, 1/2].
            lanes: of x.
        """
        suffix = "" if lanes == 1 else f"x{lanes}"
        x = build.Bind(build.max(x, _number(-126.0, "float32", lanes)))
        whole = build.Bind(build.nearbyint(x))
        value = build.Bind(self._polynomial(x - whole, terms, lanes))
        exponent = build.cast(whole, f"int32{suffix}") << _number(23, "int32", lanes)
        bits = build.reinterpret(f"int32{suffix}", value) + exponent
        return build.Bind(build.reinterpret(f"float32{suffix}", bits))

    def _polynomial(self, x: Expr, terms: tuple[float, ...], lanes: int) -> Expr:
        x = build.Bind(x)
        value = _number(terms[-1], "float32", lanes)
        for term in terms[-2::-1]:
            value = self.fma(value, x, _number(term, "float32", lanes), lanes)
        return value


def _number(value: float, dtype: str, lanes: int) -> Expr:
    number = tirx.const(value, dtype)
    return number if lanes == 1 else tirx.Broadcast(number, lanes)


def by_register(isa: Isa, intrinsic: Callable[..., Expr], *operands: Expr) -> Expr:
    """An intrinsic for registers, on 16 lanes of 32 bits.

    Args:
        isa: says how wide registers are.
        intrinsic: takes a register of each operand.
        operands: vectors of 64 bytes.
    """
    count = isa.per_block
    if count == 1:
        return intrinsic(*operands)
    operands = tuple(build.Bind(operand) for operand in operands)
    parts: list[Expr] = []
    for number in range(count):
        registers = [part(operand, number, count) for operand in operands]
        parts.append(build.Bind(intrinsic(*registers)))
    return tirx.Shuffle(parts, [tirx.const(i, "int32") for i in range(LANES)])


def part(operand: Expr, number: int, count: int) -> Expr:
    """Part `number` of a vector that is cut into `count`."""
    size = operand.ty.dtype.lanes // count
    wanted = range(number * size, (number + 1) * size)
    return tirx.Shuffle([operand], [tirx.const(i, "int32") for i in wanted])
