"""How attention reads the words of a cache and multiplies what is in them, by dtype and instruction
set. Knows no order of a cache.

Words come 16 at a time, one in each lane. A factor is one number for all lanes, or, where there is
an instruction for it, a pair of bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm.script.ir_builder import tirx as build

from arkinfer_tvm.isa import Isa
from arkinfer_tvm.isa.base import EXP2, EXP2_SHORT
from arkinfer_tvm.kernels.common import Expr, bind, constant
from arkinfer_tvm.storage import Cache

WORD = {"float32": "float32", "bfloat16": "uint32", "float16": "uint32", "int8": "uint32"}
"""What words of a cache are loaded as."""

VECTOR = 16


@dataclass(frozen=True)
class Reading:
    """See the module.

    Attributes:
        unit: numbers of a word.
        factors: how many factors a word is multiplied by.
        packed: numbers of a factor.
        exp2: the polynomial that is exact enough for the weights of values.
        read: 16 words -> for each factor what it multiplies.
        multiply: (sum, what was read, factor in every lane) -> sum.
    """

    unit: int
    factors: int
    packed: int
    exp2: tuple[float, ...]
    read: Callable[[Expr], list[Expr]]
    multiply: Callable[[Expr, Expr, Expr], Expr]


def reading(isa: Isa, cache: Cache) -> Reading:
    """How an instruction set reads such a cache."""
    if cache.dtype == "bfloat16" and isa.paired:
        return Reading(2, 1, 2, EXP2_SHORT, lambda word: [bind(word)], isa.pair_dot)
    widened = {"float32": _whole, "bfloat16": _bfloat, "float16": _half(isa), "int8": _codes}

    def multiply(total: Expr, value: Expr, factor: Expr) -> Expr:
        return isa.fma(value, factor, total)

    unit = cache.unit
    return Reading(unit, unit, 1, EXP2, widened[cache.dtype], multiply)


def _whole(word: Expr) -> list[Expr]:
    return [bind(word)]


def _bfloat(word: Expr) -> list[Expr]:
    word = bind(word)
    parts = (word << _u32(16), word & _u32(0xFFFF0000))
    return [bind(build.reinterpret("float32x16", part)) for part in parts]


def _half(isa: Isa) -> Callable[[Expr], list[Expr]]:
    def read(word: Expr) -> list[Expr]:
        word = bind(word)
        parts = (word & _u32(0xFFFF), word >> _u32(16))
        return [bind(isa.half(build.cast(part, "uint16x16"))) for part in parts]

    return read


def _codes(word: Expr) -> list[Expr]:
    signed = bind(build.reinterpret("int32x16", word))

    def code(number: int) -> Expr:
        up, down = (constant(bits, VECTOR, "int32") for bits in (24 - 8 * number, 24))
        return bind(build.cast((signed << up) >> down, "float32x16"))

    return [code(number) for number in range(4)]


def _u32(number: int) -> Expr:
    return constant(number, VECTOR, "uint32")
