"""AVX2 with the int8 dot product of AVX-VNNI: Intel's cores since Alder Lake, AMD's since Zen 5."""

from __future__ import annotations

from typing import ClassVar

from tvm.script.ir_builder import tirx as build

from arkinfer_tvm.isa.avx2 import Avx2
from arkinfer_tvm.isa.base import Expr, by_register


class AvxVnni(Avx2):
    """As AVX2, but four bytes are multiplied and added to 32 bits at once."""

    name: ClassVar[str] = "avx-vnni"
    features: ClassVar[tuple[str, ...]] = ("+avxvnni",)
    most_code: ClassVar[int] = 255

    def dot(self, total: Expr, codes: Expr, activations: Expr) -> Expr:
        def register(part: Expr, some: Expr, others: Expr) -> Expr:
            return build.call_llvm_pure_intrin(
                "int32x8", "llvm.x86.avx512.vpdpbusd.256", part, some, others
            )

        return by_register(self, register, total, codes, activations)
