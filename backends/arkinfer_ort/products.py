"""Emits products with quantized matrices, with activations in int8 or as they are.

Knows no node of the IR.
"""

from __future__ import annotations

from arkinfer import ir
from arkinfer_ort.graph import Graph
from arkinfer_ort.initializers import Initializers, Matrix

FP32_ACTIVATIONS, INT8_ACTIVATIONS = 1, 4
"""MatMulNBits' accuracy levels: activations as they are, or quantized to int8 by block, the one
fast path."""


class Products:
    """Adds them to a graph, and what they read to its initializers."""

    def __init__(self, graph: Graph, initializers: Initializers) -> None:
        self._graph, self._initializers = graph, initializers
        self._halves: dict[tuple[str, int], tuple[str, str]] = {}

    def add(self, x: str, weight: ir.Weight, loc: str, *, exact: bool) -> str:
        """x W^T, [1, rows, K] -> [1, rows, N]; returns its name.

        Args:
            x: a value of the graph.
            weight: quantized, [N, K].
            loc: the torch path.
            exact: whether the kernel has to take x as it is.
        """
        matrix = self._initializers.matrix(weight, exact=exact)
        if matrix.order is not None:
            x = self._graph.add("Gather", [x, matrix.order], loc, axis=2)
        if matrix.rest is not None:
            return self._by_halves(x, matrix, matrix.rest, loc)
        level = FP32_ACTIVATIONS if exact else INT8_ACTIVATIONS
        columns, bits, block = matrix.shape[1], matrix.bits, matrix.block
        product = self._product(x, matrix, columns, bits, block, level, loc)
        if matrix.factors is None:
            return product
        return self._graph.add("Mul", [product, matrix.factors], loc)

    def _product(
        self, x: str, matrix: Matrix, columns: int, bits: int, block: int, level: int, loc: str
    ) -> str:
        zero = [matrix.zero] if matrix.zero else []
        return self._graph.add(
            "MatMulNBits", [x, matrix.codes, matrix.scale, *zero], loc,
            N=matrix.shape[0], K=columns, bits=bits, block_size=block, accuracy_level=level,
        )  # fmt: skip

    def _by_halves(self, x: str, matrix: Matrix, rest: str, loc: str) -> str:
        """With a matrix of 8 bits as one of 4 that has twice the columns, for which there is a
        kernel: a code is low + 16 high, and the two lie side by side."""
        columns, block = matrix.shape[1], matrix.block
        wide, sums = self._as_halves(x, columns, block, loc)
        product = self._product(wide, matrix, 2 * columns, 4, 2 * block, FP32_ACTIVATIONS, loc)
        lacking = self._graph.add("FusedMatMul", [sums, rest], loc, transA=0, transB=1)
        return self._graph.add("Add", [product, lacking], loc)

    def _as_halves(self, x: str, columns: int, block: int, loc: str) -> tuple[str, str]:
        """x0, 16 x0, x1, 16 x1, …; and the sums of x over blocks, which `Matrix.rest` is for."""
        if (x, block) not in self._halves:
            add, shape = self._graph.add, self._graph.integers
            pairs = add("Reshape", [x, shape(0, 0, columns, 1)], loc)
            pairs = add("Mul", [pairs, self._graph.floats(1, 16)], loc)
            wide = add("Reshape", [pairs, shape(0, 0, 2 * columns)], loc)
            parts = add("Reshape", [x, shape(0, 0, columns // block, block)], loc)
            sums = add("ReduceSum", [parts, shape(3)], loc, keepdims=0)
            self._halves[x, block] = wide, sums
        return self._halves[x, block]
