"""Runs single kernels, compiled for one instruction set, on arrays. Knows no IR."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from arkinfer_tvm.build import build_library
from arkinfer_tvm.cpu import ISAS, cpu_flags
from arkinfer_tvm.kernels import Kernel
from arkinfer_tvm.library import Bound, Library, aligned
from arkinfer_tvm.program import Call, Dimension, Operand, Program

Array = np.ndarray[Any, Any]

HERE = [isa for isa, flags in ISAS[platform.machine()].items() if cpu_flags().issuperset(flags)]
"""The instruction sets that this processor has."""


def placed(array: Any, dtype: Any = None) -> Array:
    """A copy where kernels can read it."""
    given = np.asarray(array, dtype)
    copy = aligned(given.shape, given.dtype)
    copy[...] = given
    return copy


class Lab:
    """Kernels of an instruction set in one library.

    Args:
        isa: its name.
        kernels: all that will be run.
        threads: that share the jobs.
    """

    def __init__(self, isa: str, kernels: Iterable[Kernel], threads: int = 1) -> None:
        self.isa = isa
        self.names = {kernel: f"{kernel.family}_{i}" for i, kernel in enumerate(set(kernels))}
        self.library = Library(build_library(self.names, isa), f"lib{isa}.so", threads, 4)

    def run(self, kernel: Kernel, rows: int, arrays: Mapping[str, Array | int]) -> None:
        """All jobs of a kernel for so many rows; whole numbers are given by pointer, too."""
        given = {
            name: placed([value], np.int64) if isinstance(value, int) else value
            for name, value in arrays.items()
        }
        assert given.keys() == kernel.parameters().keys()
        operands = [Operand("port", name) for name in kernel.parameters()]
        if kernel.own:
            operands.append(Operand("own", 0))
        dims = (kernel.jobs(Dimension((), rows)),)
        call = Call(self.names[kernel], tuple(range(len(operands))), 0)
        program = Program(dims, tuple(operands), (call,), (), 0, -(-kernel.own // 64) * 64)
        bound = Bound(program, self.library, {})
        bound.run(bound.arguments([]), {}, given.items())

    def close(self) -> None:
        self.library.close()
