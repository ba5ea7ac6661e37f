"""`quant.*`: ops whose weight is a matrix in packing's canonical form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from arkinfer.ir.ops.base import Array, Op, float_tensor, need, quantized, tensor
from arkinfer.ir.types import TensorType, Type

ACTIVATIONS = ("any", "f32", "i16", "i8")
"""What a product with a quantized matrix may take in place of x: whatever a backend is fastest
with, x as it is, or x rounded with a scale for each block, to two digits of 8 bits or to one."""


class QuantizedLinear(Op):
    """x W^T with W = dequantize(weight): f32 [..., K], quant [N, K] -> f32 [..., N].

    `activations` is one of `ACTIVATIONS`. Rounding x is no part of this op's meaning; a backend
    that does so states its tolerance. Source: `arkinfer.packing.QuantizedTensor`.
    """

    name = "quant.linear"
    operands = ("x", "weight")
    attributes = {"activations": "any"}

    @classmethod
    def infer(cls, types: Sequence[Type], attributes: Mapping[str, Any]) -> list[Type]:
        x, weight = float_tensor(cls, "x", types[0]), quantized(cls, "weight", types[1])
        need(x.shape[-1] == weight.shape[1], cls, f"x is {x}, weight is {weight}")
        kind = attributes["activations"]
        need(kind in ACTIVATIONS, cls, f'activations are {", ".join(ACTIVATIONS)}, not "{kind}"')
        return [TensorType(x.dtype, (*x.shape[:-1], weight.shape[0]))]

    @classmethod
    def ref(cls, operands: Sequence[Any], attributes: Mapping[str, Any]) -> list[Array]:
        x, weight = operands
        rows = weight.shape[0]
        step = max(1, (1 << 24) // weight.shape[1])  # 64 MiB of float32 at a time
        out = np.empty((*x.shape[:-1], rows), x.dtype)
        for start in range(0, rows, step):
            part = slice(start, min(start + step, rows))
            out[..., part] = x @ weight.dequantize(part).astype(x.dtype, copy=False).T
        return [out]


class QuantizedEmbedding(Op):
    """scale * dequantize(table)[tokens]: i64 [T], quant [V, H] -> f32 [T, H]."""

    name = "quant.embedding"
    operands = ("tokens", "table")
    attributes = {"scale": 1.0}

    @classmethod
    def infer(cls, types: Sequence[Type], attributes: Mapping[str, Any]) -> list[Type]:
        tokens = tensor(cls, "tokens", types[0], "i64")
        table = quantized(cls, "table", types[1])
        return [TensorType("f32", (*tokens.shape, table.shape[1]))]

    @classmethod
    def ref(cls, operands: Sequence[Any], attributes: Mapping[str, Any]) -> list[Array]:
        tokens, table = operands
        rows = [table.dequantize(slice(int(t), int(t) + 1)) for t in tokens.reshape(-1)]
        found = np.concatenate(rows).reshape(*tokens.shape, table.shape[1])
        return [found * np.float32(attributes["scale"])]
