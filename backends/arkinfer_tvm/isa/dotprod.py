"""aarch64 with the int8 dot product of Armv8.2: Raspberry Pi 5, Jetson Orin's A78AE."""

from __future__ import annotations

from typing import ClassVar

from tvm.script.ir_builder import tirx as build

from arkinfer_tvm.isa.base import Expr, by_register
from arkinfer_tvm.isa.neon import Neon


class DotProd(Neon):
    """As NEON, with `sdot`; both operands are signed."""

    name: ClassVar[str] = "dotprod"
    features: ClassVar[tuple[str, ...]] = ("+v8.2a", "+dotprod", "+fullfp16")

    def dot(self, total: Expr, codes: Expr, activations: Expr) -> Expr:
        def register(part: Expr, some: Expr, others: Expr) -> Expr:
            some = build.reinterpret("int8x16", some)
            return build.call_llvm_pure_intrin(
                "int32x4", "llvm.aarch64.neon.sdot.v4i32.v16i8", part, some, others
            )

        return by_register(self, register, total, codes, activations)
