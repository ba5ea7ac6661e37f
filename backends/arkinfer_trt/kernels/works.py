"""The kernels that a network needs, as work that builds keep. Knows no network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from arkinfer.backend import Work
from arkinfer.backend.sources import digest_of
from arkinfer_trt.kernels.compiled import compiled
from arkinfer_trt.kernels.gemv import AnyTile, Gemv, kernel_name, tactics
from arkinfer_trt.kernels.stored import kernel_json

TYPICAL = 30_000
"""Bytes of a kernel, of which a plan makes none; they have 8,000 to 80,000."""


def kernel_works(products: Iterable[Gemv], sm: int) -> list[Work]:
    """Each kernel of any tactic for these products, compiled for `sm`; makes `kernel_json`."""
    found: dict[str, Work] = {}
    for gemv in products:
        for tile in tactics(gemv).values():
            name = kernel_name(gemv, tile)
            if name not in found:
                facts = (name, sm, version("triton"), _code())
                found[name] = Work(name, facts, _maker(gemv, tile, sm), TYPICAL)
    return list(found.values())


def _maker(gemv: Gemv, tile: AnyTile, sm: int) -> Callable[[], bytes]:
    return lambda: kernel_json(compiled(gemv, tile, sm))


@lru_cache
def _code() -> str:
    """The version of what is compiled, and of how: the source's SHA-256."""
    return digest_of(Path(__file__).parent)
