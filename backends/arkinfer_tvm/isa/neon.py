"""aarch64's baseline: NEON without dot products, as in the Raspberry Pi 4."""

from __future__ import annotations

from typing import ClassVar

from tvm.script.ir_builder import tirx as build

from arkinfer_tvm.isa.base import Expr, Isa, by_register, part


class Neon(Isa):
    """Bytes are signed here: products of 16 bits, added in pairs, then to 32 bits."""

    name: ClassVar[str] = "neon"
    arch: ClassVar[str] = "aarch64"
    features: ClassVar[tuple[str, ...]] = ("+neon",)
    width: ClassVar[int] = 16
    registers: ClassVar[int] = 32
    l2: ClassVar[int] = 512 << 10
    most_code: ClassVar[int] = 127

    def dot(self, total: Expr, codes: Expr, activations: Expr) -> Expr:
        call = build.call_llvm_pure_intrin

        def register(part: Expr, some: Expr, others: Expr) -> Expr:
            some = build.reinterpret("int8x16", some)
            low, high = (
                call("int16x8", "llvm.aarch64.neon.smull.v8i16", half(some), half(others))
                for half in (_low, _high)
            )
            pairs = call("int16x8", "llvm.aarch64.neon.addp.v8i16", low, high)
            return part + call("int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", pairs)

        return by_register(self, register, total, codes, activations)


def _low(register: Expr) -> Expr:
    return part(register, 0, 2)


def _high(register: Expr) -> Expr:
    return part(register, 1, 2)
