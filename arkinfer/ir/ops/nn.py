"""`nn.*`: what every decoder-only model of the family is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from arkinfer.ir.ops.base import Array, Op, float_tensor, need, tensor, wide
from arkinfer.ir.types import TensorType, Type


class Embedding(Op):
    """scale * table[tokens]: i64 [T], [V, H] -> f32 [T, H].

    Source: `torch.nn.functional.embedding`; `scale` is MiniCPM's `scale_emb`.
    """

    name = "nn.embedding"
    operands = ("tokens", "table")
    attributes = {"scale": 1.0}

    @classmethod
    def infer(cls, types: Sequence[Type], attributes: Mapping[str, Any]) -> list[Type]:
        tokens = tensor(cls, "tokens", types[0], "i64")
        table = float_tensor(cls, "table", types[1], rank=2)
        return [TensorType("f32", (*tokens.shape, table.shape[1]))]

    @classmethod
    def ref(cls, operands: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
        rows = wide(operands[1][operands[0]])
        return [rows * rows.dtype.type(attributes["scale"])]


class Linear(Op):
    """x W^T: f32 [..., K], [N, K] -> f32 [..., N].

    Source: `torch.nn.functional.linear`, without bias (the family has none).
    """

    name = "nn.linear"
    operands = ("x", "weight")

    @classmethod
    def infer(cls, types: Sequence[Type], attributes: Mapping[str, Any]) -> list[Type]:
        x, weight = float_tensor(cls, "x", types[0]), float_tensor(cls, "weight", types[1], rank=2)
        need(x.shape[-1] == weight.shape[1], cls, f"x is {x}, weight is {weight}")
        return [TensorType(x.dtype, (*x.shape[:-1], weight.shape[0]))]

    @classmethod
    def ref(cls, operands: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
        return [operands[0] @ wide(operands[1]).T]


class RMSNorm(Op):
    """weight * x / sqrt(mean(x^2) + eps) over the last dimension: f32 [..., H], [H] -> f32.

    Source: Zhang and Sennrich 2019, eq. 4; `LlamaRMSNorm`.
    """

    name = "nn.rms_norm"
    operands = ("x", "weight")
    attributes = {"eps": ...}

    @classmethod
    def infer(cls, types: Sequence[Type], attributes: Mapping[str, Any]) -> list[Type]:
        x, weight = float_tensor(cls, "x", types[0]), float_tensor(cls, "weight", types[1], rank=1)
        need(x.shape[-1] == weight.shape[0], cls, f"x is {x}, weight is {weight}")
        return [x]

    @classmethod
    def ref(cls, operands: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
        x, weight = operands[0], wide(operands[1])
        variance = np.mean(x * x, axis=-1, keepdims=True, dtype=x.dtype)
        return [weight * (x / np.sqrt(variance + x.dtype.type(attributes["eps"])))]


class Rope(Op):
    """Rotary position embedding, half layout: f32 [T, heads, D], i64 [T], f32 [D/2] -> f32.

    Pairs (i, i + D/2) turn by positions * inv_freq; cos and sin are multiplied by `factor`
    (LongRoPE's attention factor, else 1). Source: Su et al. 2021, eq. 34; `MiniCPMLongRoPE`.
    """

    name = "nn.rope"
    operands = ("x", "positions", "inv_freq")
    attributes = {"factor": 1.0}

    @classmethod
    def infer(cls, types: Sequence[Type], attributes: Mapping[str, Any]) -> list[Type]:
        x = float_tensor(cls, "x", types[0], rank=3)
        positions = tensor(cls, "positions", types[1], "i64")
        inv_freq = float_tensor(cls, "inv_freq", types[2], rank=1)
        need(positions.shape == x.shape[:1], cls, f"x is {x}, positions are {positions}")
        half = inv_freq.shape[0]
        need(isinstance(half, int) and x.shape[-1] == 2 * half, cls, f"{x} with {inv_freq}")
        return [x]

    @classmethod
    def ref(cls, operands: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
        x, positions, inv_freq = operands
        angle = positions[:, None].astype(x.dtype) * inv_freq.astype(x.dtype)
        cos = (np.cos(angle) * x.dtype.type(attributes["factor"]))[:, None, :]
        sin = (np.sin(angle) * x.dtype.type(attributes["factor"]))[:, None, :]
        a, b = np.split(x, 2, axis=-1)
        return [np.concatenate((a * cos - b * sin, b * cos + a * sin), axis=-1)]


class SiluMul(Op):
    """silu(gate) * up: f32, f32 -> f32, any shape. Source: Shazeer 2020, SwiGLU."""

    name = "nn.silu_mul"
    operands = ("gate", "up")

    @classmethod
    def infer(cls, types: Sequence[Type], attributes: Mapping[str, Any]) -> list[Type]:
        gate, up = float_tensor(cls, "gate", types[0]), float_tensor(cls, "up", types[1])
        need(gate == up, cls, f"gate is {gate}, up is {up}")
        return [gate]

    @classmethod
    def ref(cls, operands: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
        gate, up = operands
        with np.errstate(over="ignore"):
            return [gate / (1 + np.exp(-gate)) * up]


class Add(Op):
    """residual + scale * branch: f32, f32 -> f32, same shape.

    `scale` is MiniCPM's residual scale, scale_depth / sqrt(layers).
    """

    name = "nn.add"
    operands = ("residual", "branch")
    attributes = {"scale": 1.0}

    @classmethod
    def infer(cls, types: Sequence[Type], attributes: Mapping[str, Any]) -> list[Type]:
        a, b = float_tensor(cls, "residual", types[0]), float_tensor(cls, "branch", types[1])
        need(a == b, cls, f"residual is {a}, branch is {b}")
        return [a]

    @classmethod
    def ref(cls, operands: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
        a, b = operands
        return [a + b * b.dtype.type(attributes["scale"])]
