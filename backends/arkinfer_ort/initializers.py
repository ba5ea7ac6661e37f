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
            With `rest`, 8-bit codes are listed as twice as many of 4 bits, low halves first.
        scale: float32 [N, K/block].
        zero: uint8, packed; None: the middle code stands for 0.
        factors: float32 [N], what the product is multiplied by; None: nothing.
        rest: float32 [N, K/block], what a product with halves of codes lacks, each being taken
            for 8 less: times the sum of the block's activations; None: nothing.
        order: int32 [K], the order of the columns; None: as they come.
        bits: per code.
        block: columns that share a scale.
        shape: (N, K).
    """

    codes: str
    scale: str
    zero: str | None
    factors: str | None
    rest: str | None
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

    def table(self, weight: Weight) -> Matrix:
        """A quantized matrix as GatherBlockQuantized reads it; the same bytes."""
        kind = cast(QuantizedType, weight.type)
        scheme, (rows, columns) = kind.scheme, kind.shape
        block = cast(int, block_size(scheme, columns))
        self.versions.add(needed_version(kind, table=True))
        parts = self._out.weight(weight)
        dims = [rows, columns * scheme.bits // 8]
        codes = self._list(f"{weight.name}.table", parts["codes"], "uint8", dims)
        scale, zero = self._scales(weight, kind, block, parts), None
        if scheme.offset == "zero":
            zero = self._zeros(weight, kind, block, parts, scheme.bits)
        return Matrix(codes, scale, zero, None, None, None, scheme.bits, block, kind.shape)

    def matrix(self, weight: Weight, *, exact: bool = False) -> Matrix:
        """A quantized matrix as MatMulNBits reads it.

        Args:
            weight: its symbol.
            exact: in a form that has kernels for activations as they are: of four bits.
        """
        kind = cast(QuantizedType, weight.type)
        scheme, (rows, columns) = kind.scheme, kind.shape
        block = cast(int, product_block(kind, self._arch, exact=exact))
        self.versions.add(needed_version(kind, exact=exact))
        parts = self._out.weight(weight)
        bits, blocks = scheme.bits, columns // block
        zero = factors = rest = order = None
        if has_row_factors(kind):
            scale = self._ones(rows, blocks)
            factors = self._list(f"{weight.name}.factors", parts["scale"], "float32", [rows])
        else:
            scale = self._scales(weight, kind, block, parts)
        codes = parts["codes"]
        if exact and bits == 2:
            codes, bits = self._widened(weight, kind), 4
        if exact and bits == 8:
            rest = self._rest(weight, kind, block)
        elif scheme.offset == "zero":
            zero = self._zeros(weight, kind, block, parts, bits)
        dims = [rows, blocks, block * bits // 8]
        codes = self._list(f"{weight.name}.codes", codes, "uint8", dims)
        if "order" in parts:
            order = self._list(f"{weight.name}.order", parts["order"], "int32", [columns])
        return Matrix(codes, scale, zero, factors, rest, order, bits, block, kind.shape)

    def _widened(self, weight: Weight, kind: QuantizedType) -> str:
        """Codes of two bits in four, around 8 where they are around 2."""
        shift = np.uint8(0 if kind.scheme.offset == "zero" else 8 - kind.scheme.midpoint)
        width = kind.shape[1] // 2
        return self._repacked(
            f"{weight.name}.codes.int4", "uint8", weight, width,
            lambda q: pack_bits(q.unpacked().reshape(q.shape) + shift, 4),
        )  # fmt: skip

    def _rest(self, weight: Weight, kind: QuantizedType, block: int) -> str:
        """What is missing where halves of 8-bit codes are taken for numbers around 8."""
        repeat, blocks = kind.scheme.group_size(kind.shape[1]) // block, kind.shape[1] // block
        name = f"{weight.name}.rest"
        tensor = self._repacked(name, "float32", weight, blocks, lambda q: _rest(q, repeat))
        return self._list(name, tensor, "float32", [kind.shape[0], blocks])

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
    ) -> str:
        """Scales for blocks of `block`; groups may be several of them."""
        rows, columns = kind.shape
        blocks = columns // block
        repeat = kind.scheme.group_size(columns) // block
        name = f"{weight.name}.scale"
        if name not in self.entries:
            tensor = parts["scale"]
            if repeat > 1:
                tensor = self._repacked(
                    f"{name}.g{block}", "float32", weight, blocks, lambda q: _repeat(q, repeat)
                )
            self._list(name, tensor, "float32", [rows, blocks])
        return name

    def _zeros(
        self, weight: Weight, kind: QuantizedType, block: int, parts: dict[str, str], bits: int
    ) -> str:
        """Zero points for blocks of `block`, packed in `bits`."""
        rows, columns = kind.shape
        blocks = columns // block
        repeat = kind.scheme.group_size(columns) // block
        name = f"{weight.name}.zero" if bits == kind.scheme.bits else f"{weight.name}.zero.int4"
        if name not in self.entries:
            size, tensor = packed_size(blocks, bits), parts["zero"]
            if repeat > 1 or bits != kind.scheme.bits:
                tensor = self._repacked(
                    f"{name}.g{block}", "uint8", weight, size,
                    lambda q: pack_bits(np.repeat(q.zeros(), repeat, axis=1), bits),
                )  # fmt: skip
            self._list(name, tensor, "uint8", [rows, size])
        return name

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


def _rest(q: QuantizedTensor, times: int) -> Array:
    """scale (136 - zero): halves around 8 make 8 + 16 * 8 of a code."""
    rest = q.scale.astype(np.float32) * (np.float32(136) - q.zeros().astype(np.float32))
    return np.repeat(rest, times, axis=1)
