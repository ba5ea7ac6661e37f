"""x86-64-v3: AVX2, with FMA and F16C; every x86 core since Haswell and Zen."""

from __future__ import annotations

from typing import ClassVar

from tvm.script.ir_builder import tirx as build

from arkinfer_tvm.isa.base import Expr, Isa, by_register, tirx


class Avx2(Isa):
    """Bytes are multiplied and added in pairs to 16 bits, which saturate: codes up to 128 fit."""

    name: ClassVar[str] = "x86-64-v3"
    arch: ClassVar[str] = "x86_64"
    cpu: ClassVar[str] = "x86-64-v3"
    width: ClassVar[int] = 32
    registers: ClassVar[int] = 16
    l2: ClassVar[int] = 256 << 10
    spills: ClassVar[bool] = True
    most_code: ClassVar[int] = 128

    def dot(self, total: Expr, codes: Expr, activations: Expr) -> Expr:
        ones = tirx.Broadcast(tirx.const(1, "int16"), 16)

        def register(part: Expr, some: Expr, others: Expr) -> Expr:
            pairs = build.call_llvm_pure_intrin(
                "int16x16", "llvm.x86.avx2.pmadd.ub.sw", some, others
            )
            return part + build.call_llvm_pure_intrin(
                "int32x8", "llvm.x86.avx2.pmadd.wd", pairs, ones
            )

        return by_register(self, register, total, codes, activations)
