"""Keeps caches of floats in another dtype, to which rows are rounded when they are appended.

Knows no backend; int8 caches, which need scales, are the affair of `quantize_cache.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from arkinfer.errors import UsageError
from arkinfer.ir import Module
from arkinfer.ir.types import CACHES, FLOATS
from arkinfer.passes.caches import dtype_of, float_caches, retype

DTYPES = tuple(dtype for dtype in CACHES if dtype in FLOATS)


@dataclass(frozen=True)
class StoreCache:
    """All float caches of every function, or none. Option: an IR dtype.

    Raises:
        UsageError: no cache holds that dtype.
        UnsupportedError: something else than appends and dense attention uses a cache.
    """

    dtype: str

    name = "store-cache"

    def run(self, module: Module) -> bool:
        if self.dtype not in DTYPES:
            raise UsageError(
                f'A cache of floats cannot hold "{self.dtype}"', "", f"Use {', '.join(DTYPES)}"
            )
        changed = False
        for function in module.functions.values():
            for past, append in float_caches(function, self.dtype).items():
                changed |= dtype_of(past) != self.dtype
                retype(past, append, self.dtype)
        return changed
