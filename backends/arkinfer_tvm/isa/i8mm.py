"""aarch64 with the int8 matrix product of Armv8.6: Graviton 3, Apple's M2, recent Cortex cores."""

from __future__ import annotations

from typing import ClassVar

from arkinfer_tvm.isa.dotprod import DotProd


class I8mm(DotProd):
    """As dotprod, with `smmla` beside it."""

    name: ClassVar[str] = "i8mm"
    features: ClassVar[tuple[str, ...]] = (*DotProd.features, "+i8mm")
