"""The compile half of the backend contract, its registry and placement. Knows no backend."""

from arkinfer.backend.contract import Compiler, RowStore, SectionWriter, Support
from arkinfer.backend.registry import compiler, compilers

__all__ = ["Compiler", "RowStore", "SectionWriter", "Support", "compiler", "compilers"]
