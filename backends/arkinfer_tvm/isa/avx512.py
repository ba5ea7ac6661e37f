"""AVX-512 with VNNI, and with the dot product of bfloat16 beside it: Ice Lake, Zen 4 and later."""

from __future__ import annotations

from typing import ClassVar

from tvm.script.ir_builder import tirx as build

from arkinfer_tvm.isa.base import Expr, Isa


class Avx512Vnni(Isa):
    """A register holds 16 lanes, and one instruction does a whole `dot`."""

    name: ClassVar[str] = "x86-64-v4-vnni"
    arch: ClassVar[str] = "x86_64"
    cpu: ClassVar[str] = "x86-64-v4"
    features: ClassVar[tuple[str, ...]] = ("+avx512vnni", "-prefer-256-bit")
    width: ClassVar[int] = 64
    registers: ClassVar[int] = 32
    most_code: ClassVar[int] = 255

    def dot(self, total: Expr, codes: Expr, activations: Expr) -> Expr:
        return build.call_llvm_pure_intrin(
            "int32x16", "llvm.x86.avx512.vpdpbusd.512", total, codes, activations
        )


class Avx512Bf16(Avx512Vnni):
    """The same, with AVX512-BF16."""

    name: ClassVar[str] = "x86-64-v4-vnni-bf16"
    features: ClassVar[tuple[str, ...]] = (*Avx512Vnni.features, "+avx512bf16")
