"""Which tensors of the artifact the ONNX graph reads, and under which names and shapes.

Weights are used as they are stored; only what a kernel needs otherwise is written for this
section alone: scales repeated per block or ones in their place, and positions. Knows no node of
the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from arkinfer import ir
from arkinfer.backend import SectionWriter
from arkinfer.ir import DTYPES, QuantizedType, TensorType, Weight
from arkinfer.packing import QuantizedTensor, pack_bits, packed_size
from arkinfer_ort.support import (
    INT8_CACHE_VERSION,
    block_size,
    has_row_factors,
    needed_version,
    product_block,
)

ROWS_AT_A_TIME = 1 << 22
"""Elements of a matrix that are in memory at a time."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Matrix:
    """The initializers of a quantized matrix [N, K]; names of the ONNX graph.

    Attributes:
        codes: uint8, [N, K/block, block * bits / 8] or, of a table, [N, K * bits / 8].
        scale: float32 [N, K/block].
        zero: uint8, packed; None: the middle code stands for 0.
        factors: float32 [N], what the product is multiplied by; None: nothing.
        order: int32 [K], the order of the columns; None: as they come.
        bits: per code.
        block: columns that share a scale.
        shape: (N, K).
    """

    codes: str
    scale: str
    zero: str | None
    factors: str | None
    order: str | None
    bits: int
    block: int
    shape: tuple[int, int]


class Initializers:
    """Puts weights into the section, and lists what its graph reads of them.

    Attributes:
        entries: one JSON object per initializer: its name in the graph, the tensor's in the
            artifact, dtype and dims.
        versions: of ONNX Runtime, one for each matrix: the first that reads it right.
    """

    def __init__(self, out: SectionWriter, arch: str) -> None:
        self._out = out
        self._arch = arch
        self.entries: dict[str, dict[str, Any]] = {}
        self.versions: set[str] = set()

    def dense(self, weight: Weight) -> str:
        """A float tensor in its own dtype."""
        kind = cast(TensorType, weight.type)
        if weight.name not in self.entries:
            (tensor,) = self._out.weight(weight).values()
            self._list(weight.name, tensor, np.dtype(DTYPES[kind.dtype]).name, _sizes(kind.shape))
        return weight.name

    def matrix(self, weight: Weight) -> Matrix:
        """A quantized matrix as MatMulNBits reads it."""
        return self._matrix(weight, table=False)

    def table(self, weight: Weight) -> Matrix:
        """A quantized matrix as GatherBlockQuantized reads it; the same bytes."""
        return self._matrix(weight, table=True)

    def _matrix(self, weight: Weight, *, table: bool) -> Matrix:
        kind = cast(QuantizedType, weight.type)
        scheme, (rows, columns) = kind.scheme, kind.shape
        factored = has_row_factors(kind) and not table
        size = block_size(scheme, columns) if table else product_block(kind, self._arch)
        block = cast(int, size)
        self.versions.add(needed_version(kind, table=table))
        parts = self._out.weight(weight)
        blocks = columns // block
        codes = f"{weight.name}.table" if table else f"{weight.name}.codes"
        row_bytes = columns * scheme.bits // 8
        dims = [rows, row_bytes] if table else [rows, blocks, row_bytes // blocks]
        self._list(codes, parts["codes"], "uint8", dims)
        factors = order = None
        if factored:
            scale, zero = self._ones(rows, blocks), None
            factors = self._list(f"{weight.name}.factors", parts["scale"], "float32", [rows])
        else:
            scale, zero = self._scales(weight, kind, block, parts)
        if "order" in parts:
            order = self._list(f"{weight.name}.order", parts["order"], "int32", [columns])
        return Matrix(codes, scale, zero, factors, order, scheme.bits, block, kind.shape)

    def _ones(self, rows: int, blocks: int) -> str:
        """Scales that change nothing, one tensor for all matrices of a shape."""
        name = f"ones.{rows}x{blocks}"
        if name not in self.entries:
            ones = np.ones((rows, blocks), np.float32)
            tensor = self._out.tensor(name, "float32", ones.shape, iter([ones]))
            self._list(name, tensor, "float32", [rows, blocks])
        return name

    def _scales(
        self, weight: Weight, kind: QuantizedType, block: int, parts: dict[str, str]
    ) -> tuple[str, str | None]:
        """Scales and packed zero points for blocks of `block`; groups may be several of them."""
        scheme, (rows, columns) = kind.scheme, kind.shape
        blocks = columns // block
        repeat = scheme.group_size(columns) // block
        name = f"{weight.name}.scale"
        if name not in self.entries:
            tensor = parts["scale"]
            if repeat > 1:
                tensor = self._repacked(
                    f"{name}.g{block}", "float32", weight, blocks, lambda q: _repeat(q, repeat)
                )
            self._list(name, tensor, "float32", [rows, blocks])
        if scheme.offset != "zero":
            return name, None
        zero = f"{weight.name}.zero"
        if zero not in self.entries:
            size, tensor = packed_size(blocks, scheme.bits), parts["zero"]
            if repeat > 1:
                tensor = self._repacked(
                    f"{zero}.g{block}", "uint8", weight, size, lambda q: _repeat_zero(q, repeat)
                )
            self._list(zero, tensor, "uint8", [rows, size])
        return name, zero

    def _repacked(
        self,
        name: str,
        dtype: str,
        weight: Weight,
        width: int,
        convert: Callable[[QuantizedTensor], Array],
    ) -> str:
        rows, columns = cast(QuantizedType, weight.type).shape

        def chunks() -> Iterator[Array]:
            step = max(1, ROWS_AT_A_TIME // columns)
            for start in range(0, rows, step):
                part = self._out.store.rows(weight, start, min(start + step, rows))
                yield convert(cast(QuantizedTensor, part))

        return self._out.tensor(name, dtype, (rows, width), chunks())

    def positions(self, context: int) -> str:
        """float32 [context, 1]: 0, 1, 2, …"""
        name = f"positions.{context}"
        if name not in self.entries:
            numbers = np.arange(context, dtype=np.float32)[:, None]
            tensor = self._out.tensor(name, "float32", numbers.shape, iter([numbers]))
            self._list(name, tensor, "float32", [context, 1])
        return name

    def cache_scale(self, weight: Weight) -> str:
        """Scales of an int8 cache, [kv heads, size], in a shape that spreads over its tokens."""
        heads, size = _sizes(cast(TensorType, weight.type).shape)
        self.versions.add(INT8_CACHE_VERSION)
        if weight.name not in self.entries:
            (tensor,) = self._out.weight(weight).values()
            self._list(weight.name, tensor, "float32", [1, heads, 1, size])
        return weight.name

    def _list(self, name: str, tensor: str, dtype: str, dims: list[int]) -> str:
        entry = {"name": name, "tensor": tensor, "dtype": dtype, "dims": dims}
        self.entries[name] = entry
        return name


def _sizes(shape: tuple[ir.Dim, ...]) -> list[int]:
    return [cast(int, size) for size in shape]


def _repeat(q: QuantizedTensor, times: int) -> Array:
    return np.repeat(q.scale.astype(np.float32), times, axis=1)


def _repeat_zero(q: QuantizedTensor, times: int) -> Array:
    return pack_bits(np.repeat(q.zeros(), times, axis=1), q.scheme.bits)
