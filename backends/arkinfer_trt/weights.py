"""Puts weights into the section in the forms that TensorRT parses. Knows no node.

What the IR stores is shared where its bytes fit; int4 codes are transposed to [K, N], and what
has no layer of its own is widened. No number is read before the writer asks for it, so that a plan
can count without weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from arkinfer import ir
from arkinfer.backend import SectionWriter
from arkinfer.errors import UnsupportedError
from arkinfer.ir import QuantizedType, TensorType, Weight
from arkinfer.packing import QuantizedTensor, pack_bits, unpack_bits
from arkinfer_trt.graph import Graph

Array = npt.NDArray[Any]

ELEMENTS = 1 << 22
"""Of a matrix that are in memory as floats or unpacked codes at a time."""

ONNX = {"f32": TensorProto.FLOAT, "f16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


class Initializers:
    """Weights of a network that computes in `dtype`, "f16" or "f32"."""

    def __init__(self, graph: Graph, out: SectionWriter, dtype: str) -> None:
        self._graph, self._out, self._dtype = graph, out, dtype
        self._numpy = np.dtype(ir.DTYPES[dtype])
        self._done: dict[str, Any] = {}

    def dense(self, weight: Weight, loc: str) -> str:
        """A float tensor, cast where it is stored in another dtype than the network's."""

        def make() -> str:
            kind = cast(TensorType, weight.type)
            (tensor,) = self._out.weight(weight).values()
            shape = cast("tuple[int, ...]", kind.shape)
            name = self._graph.external(weight.name, ONNX[kind.dtype], shape, tensor)
            if kind.dtype == self._dtype:
                return name
            return self._graph.add("Cast", [name], loc, to=ONNX[self._dtype])

        return self._once(weight.name, make)

    def widened(self, weight: Weight) -> str:
        """A quantized matrix [N, K] as floats."""
        return self._once(f"{weight.name}.wide", lambda: self._widen(weight))

    def _widen(self, weight: Weight) -> str:
        rows, columns = cast(QuantizedType, weight.type).shape

        def chunks() -> Iterator[Array]:
            for part in self._blocks(weight):
                yield part.dequantize().astype(self._numpy)

        name = f"{weight.name}.wide"
        tensor = self._out.tensor(name, self._numpy.name, (rows, columns), chunks())
        return self._graph.external(name, ONNX[self._dtype], (rows, columns), tensor)

    def int4(self, weight: Weight) -> tuple[str, str, int]:
        """Codes int4 [K, N], scales [K / block, N], and the block.

        Raises:
            UnsupportedError: a scale is negative, which DequantizeLinear may not have.
        """
        return self._once(f"{weight.name}.int4", lambda: self._int4(weight))

    def _int4(self, weight: Weight) -> tuple[str, str, int]:
        kind = cast(QuantizedType, weight.type)
        rows, columns = kind.shape
        block = kind.scheme.group_size(columns)
        kept: list[Array] = []

        def codes() -> Iterator[Array]:
            matrix = QuantizedTensor.concatenate(list(self._blocks(weight)))
            kept.append(_positive(matrix.scale, weight, self._numpy).T)
            yield from _transposed(matrix)

        def scales() -> Iterator[Array]:  # after the codes, so that a matrix is quantized once
            yield kept.pop()

        name, shape = f"{weight.name}.int4", (columns // block, rows)
        packed = self._out.tensor(name, "uint8", (columns * rows // 2,), codes())
        stored = self._out.tensor(f"{name}.scale", self._numpy.name, shape, scales())
        self._graph.external(name, TensorProto.INT4, (columns, rows), packed)
        self._graph.external(f"{name}.scale", ONNX[self._dtype], shape, stored)
        return name, f"{name}.scale", block

    def rotary(self, inv_freq: Weight, factor: float, context: int) -> tuple[str, str]:
        """Tables of cos and sin of every position, times factor: [context, D / 2]."""
        return self._once(
            f"{inv_freq.name}.{factor!r}", lambda: self._rotary(inv_freq, factor, context)
        )

    def _rotary(self, inv_freq: Weight, factor: float, context: int) -> tuple[str, str]:
        (half,) = cast("tuple[int]", inv_freq.type.shape)
        step = max(1, ELEMENTS // half)

        def table(function: Callable[[Array], Array]) -> Iterator[Array]:
            freq = cast(Array, self._out.store.load(inv_freq)).astype(np.float32)
            for start in range(0, context, step):
                positions = np.arange(start, min(start + step, context), dtype=np.float32)
                angle = positions[:, None] * freq  # in float32, as the model itself does
                yield (function(angle) * np.float32(factor)).astype(self._numpy)

        names: list[str] = []
        for kind, function in (("cos", np.cos), ("sin", np.sin)):
            name, shape = f"{inv_freq.name}.{factor!r}.{kind}", (context, half)
            tensor = self._out.tensor(name, self._numpy.name, shape, table(function))
            names.append(self._graph.external(name, ONNX[self._dtype], shape, tensor))
        return names[0], names[1]

    def _blocks(self, weight: Weight) -> Iterator[QuantizedTensor]:
        rows, columns = cast(QuantizedType, weight.type).shape
        step = max(1, ELEMENTS // columns)
        for start in range(0, rows, step):
            part = self._out.store.rows(weight, start, min(start + step, rows))
            yield cast(QuantizedTensor, part)

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._done:
            self._done[name] = make()
        return self._done[name]


def _transposed(matrix: QuantizedTensor) -> Iterator[Array]:
    """Two's complement nibbles of [K, N], flat, low one first, some groups of K at a time."""
    rows, groups, _ = matrix.codes.shape
    size = matrix.scheme.group_size(matrix.shape[1])
    step = max(1, ELEMENTS // (rows * size))
    for start in range(0, groups, step):
        codes = unpack_bits(matrix.codes[:, start : start + step], 4, size)
        signed = codes.reshape(rows, -1).T ^ np.uint8(8)  # code - 8, as four bits
        yield pack_bits(signed.reshape(-1), 4)


def _positive(scale: Array, weight: Weight, dtype: np.dtype[Any]) -> Array:
    """Scales as the network has them; those of groups that are all zero become small, not zero."""
    wide = scale.astype(np.float32)
    if (wide < 0).any():
        raise UnsupportedError(
            f"@{weight.name} has negative scales",
            "TensorRT dequantizes with positive ones only",
            "Quantize the unquantized checkpoint anew",
        )
    return np.maximum(wide.astype(dtype), np.finfo(dtype).smallest_normal)
