"""The compile half of the backend contract, its registry and placement. Knows no backend."""

from arkinfer.backend.contract import (
    CacheKeeper,
    Compiler,
    Footprint,
    Predictor,
    RowStore,
    SectionWriter,
    Support,
    TargetChecker,
    Tuner,
    Work,
)
from arkinfer.backend.registry import compiler, compilers

__all__ = [
    "CacheKeeper",
    "Compiler",
    "Footprint",
    "Predictor",
    "RowStore",
    "SectionWriter",
    "Support",
    "TargetChecker",
    "Tuner",
    "Work",
    "compiler",
    "compilers",
]
