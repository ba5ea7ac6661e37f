"""AVX-512 with VNNI, and with the dot product of bfloat16 beside it: Ice Lake, Zen 4 and later."""

from __future__ import annotations

from typing import ClassVar

from tvm.script.ir_builder import tirx as build

from arkinfer_tvm.isa.base import EXP2, LANES, Expr, Isa, tirx


class Avx512Vnni(Isa):
    """A register holds 16 lanes, and one instruction does a whole `dot`."""

    name: ClassVar[str] = "x86-64-v4-vnni"
    arch: ClassVar[str] = "x86_64"
    cpu: ClassVar[str] = "x86-64-v4"
    features: ClassVar[tuple[str, ...]] = ("+avx512vnni", "-prefer-256-bit")
    width: ClassVar[int] = 64
    registers: ClassVar[int] = 32
    l2: ClassVar[int] = 1024 << 10
    spills: ClassVar[bool] = True
    most_code: ClassVar[int] = 255

    def dot(self, total: Expr, codes: Expr, activations: Expr) -> Expr:
        return build.call_llvm_pure_intrin(
            "int32x16", "llvm.x86.avx512.vpdpbusd.512", total, codes, activations
        )

    def exp2(self, x: Expr, terms: tuple[float, ...] = EXP2, lanes: int = LANES) -> Expr:
        if lanes != LANES:
            return super().exp2(x, terms, lanes)
        x = build.Bind(x)
        whole = build.Bind(build.nearbyint(x))
        value = self._polynomial(x - whole, terms, lanes)
        none = tirx.Broadcast(tirx.const(0.0, "float32"), LANES)
        every, rounding = tirx.const(-1, "int16"), tirx.const(4, "int32")
        scaled = build.call_llvm_pure_intrin(
            "float32x16", "llvm.x86.avx512.mask.scalef.ps.512", value, whole, none, every, rounding
        )
        return build.Bind(scaled)


_FEATURES = (*Avx512Vnni.features, "+avx512bf16")

_CODE = f"""
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
declare <16 x bfloat> @llvm.x86.avx512bf16.cvtneps2bf16.512(<16 x float>)
define linkonce_odr hidden <16 x float>
@ark_pair_dot(<16 x float> %t, <16 x i32> %a, <16 x i32> %b) #0 {{
  %x = bitcast <16 x i32> %a to <32 x bfloat>
  %y = bitcast <16 x i32> %b to <32 x bfloat>
  %r = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(
    <16 x float> %t, <32 x bfloat> %x, <32 x bfloat> %y)
  ret <16 x float> %r
}}
define linkonce_odr hidden <16 x i16> @ark_bfloat(<16 x float> %a) #0 {{
  %x = call <16 x bfloat> @llvm.x86.avx512bf16.cvtneps2bf16.512(<16 x float> %a)
  %r = bitcast <16 x bfloat> %x to <16 x i16>
  ret <16 x i16> %r
}}
attributes #0 = {{ alwaysinline nounwind willreturn memory(none)
  "target-cpu"="{Avx512Vnni.cpu}" "target-features"="{",".join(_FEATURES)}" }}
"""


class Avx512Bf16(Avx512Vnni):
    """The same, with AVX512-BF16. It takes subnormal numbers for 0 and its sums have no rule for
    rounding but to nearest."""

    name: ClassVar[str] = "x86-64-v4-vnni-bf16"
    features: ClassVar[tuple[str, ...]] = _FEATURES
    paired: ClassVar[bool] = True
    code: ClassVar[str] = _CODE

    def pair_dot(self, total: Expr, pairs: Expr, factors: Expr) -> Expr:
        return build.call_extern("float32x16", "ark_pair_dot", total, pairs, factors)

    def bfloat(self, value: Expr, lanes: int = LANES) -> Expr:
        if lanes != LANES:
            return super().bfloat(value, lanes)
        return build.reinterpret("uint16x16", build.call_extern("int16x16", "ark_bfloat", value))
