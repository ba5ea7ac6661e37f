"""Descriptions of instruction sets: what kernels ask of them. One file each; know no kernel."""

from arkinfer_tvm.isa.avx2 import Avx2
from arkinfer_tvm.isa.avx512 import Avx512Bf16, Avx512Vnni
from arkinfer_tvm.isa.avx_vnni import AvxVnni
from arkinfer_tvm.isa.base import Isa
from arkinfer_tvm.isa.dotprod import DotProd
from arkinfer_tvm.isa.i8mm import I8mm
from arkinfer_tvm.isa.neon import Neon

ISAS: dict[str, Isa] = {
    isa.name: isa
    for isa in (Avx2(), AvxVnni(), Avx512Vnni(), Avx512Bf16(), Neon(), DotProd(), I8mm())
}
"""By name; see `arkinfer_tvm.cpu.ISAS` for what each needs of a processor."""

__all__ = ["ISAS", "Isa"]
