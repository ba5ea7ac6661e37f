"""`cache.*` and `attn.*`: key-value state and attention over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from arkinfer.ir.ops.base import Array, Op, cache, float_tensor, need
from arkinfer.ir.types import CacheType, TensorType, Type, add_dims

SCALES = {"cache.append": 2, "attn.dense": 3}
"""From which operand on an op takes the scales of int8 caches."""

LEAST_SCALE = float(np.finfo(np.float32).tiny)
"""Of a row: one of zeros is no reason to divide by them, and no scale is less exact than others."""


class Append(Op):
    """The cache with new rows at its end: cache [S, N, D], f32 [T, N, D] -> cache [S + T, N, D].

    A cache<bf16> or cache<f16> holds rows rounded to nearest, ties to even; what is too large for
    f16 becomes infinite.

    A cache<i8> holds codes, and takes their scales as one more operand. These are given, f32
    [N, D], one per channel; or they are a cache of their own, cache<f32> [S, N, 1], one per token
    and head: each row gets max|row| / 127, and the longer cache of scales is a second result.
    Codes are round(rows / scale), ties to even, cut off at -128 and 127 (ONNX's QuantizeLinear
    without zero point). A backend may append in place: the old caches have no other user.
    """

    name = "cache.append"
    operands = ("cache", "rows", "scale*")

    @classmethod
    def infer(cls, types: Sequence[Type], attributes: Mapping[str, Any]) -> list[Type]:
        old, rows = cache(cls, "cache", types[0]), float_tensor(cls, "rows", types[1], rank=3)
        need(old.shape[1:] == rows.shape[1:], cls, f"cache is {old}, rows are {rows}")
        _need_scales(cls, old, types[SCALES[cls.name] :], 1)
        length = add_dims(old.shape[0], rows.shape[0])
        grown = [old, *(kind for kind in types[2:] if isinstance(kind, CacheType))]
        return [CacheType(kind.dtype, (length, *kind.shape[1:])) for kind in grown]

    @classmethod
    def ref(cls, operands: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
        old, rows, *scales = operands
        if not scales:
            return [_joined(old, rows)]
        if scales[0].ndim == 2:
            return [_joined(old, _codes(rows, scales[0].astype(rows.dtype)))]
        fresh = np.maximum(np.abs(rows).max(axis=-1, keepdims=True) / 127, LEAST_SCALE)
        fresh = fresh.astype(rows.dtype)
        return [_joined(old, _codes(rows, fresh)), _joined(scales[0], fresh)]


def _codes(rows: Array, scale: Array) -> Array:
    return np.clip(np.rint(rows / scale), -128, 127)


def _joined(old: Array, rows: Array) -> Array:
    return np.concatenate((old, rows.astype(old.dtype, copy=False)), axis=0)


class Dense(Op):
    """Causal softmax attention of the last T tokens over a cache that already holds them.

    f32 q [T, H, D], cache k and v [L, Hkv, D] with T <= L -> f32 [T, H, D]. Query head a reads
    kv head a // (H / Hkv); query row t sees cache rows 0 … L - T + t. Scores are multiplied by
    `scale`. Caches of type bf16 and f16 are widened as they are read; all is computed in f32.
    Those of type i8 take two more operands, the scales of k and of v: f32 [Hkv, D] per channel,
    or caches<f32> [L, Hkv, 1] per token and head.
    Source: Vaswani et al. 2017, eq. 1; Ainslie et al. 2023 (grouped queries).
    """

    name = "attn.dense"
    operands = ("q", "k", "v", "scales*")
    attributes = {"scale": ...}

    @classmethod
    def infer(cls, types: Sequence[Type], attributes: Mapping[str, Any]) -> list[Type]:
        q = float_tensor(cls, "q", types[0], rank=3)
        k, v = cache(cls, "k", types[1]), cache(cls, "v", types[2])
        need(k == v, cls, f"k is {k}, v is {v}")
        _need_scales(cls, k, types[SCALES[cls.name] :], 2)
        heads, kv_heads = q.shape[1], k.shape[1]
        fits = isinstance(heads, int) and isinstance(kv_heads, int) and heads % kv_heads == 0
        need(fits and q.shape[2] == k.shape[2], cls, f"q is {q}, k is {k}")
        return [TensorType(q.dtype, q.shape)]

    @classmethod
    def ref(cls, operands: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
        fresh, length = len(operands[0]), len(operands[1])
        seen = np.arange(length)[None, :] <= np.arange(length - fresh, length)[:, None]
        return [cls.over(operands, attributes, seen)]

    @classmethod
    def over(cls, operands: Sequence[Array], attributes: Mapping[str, Any], seen: Array) -> Array:
        """`ref` where `seen`, bool [T, L], says which rows of the cache a query attends to."""
        q, k, v = operands[0], *(x.astype(operands[0].dtype) for x in operands[1:3])
        if scales := operands[SCALES[cls.name] :]:
            k, v = (x * scale.astype(q.dtype) for x, scale in zip((k, v), scales, strict=True))
        fresh, heads, size = q.shape
        kv_heads = k.shape[1]
        grouped = q.reshape(fresh, kv_heads, heads // kv_heads, size).transpose(1, 2, 0, 3)
        scores = grouped @ k.transpose(1, 2, 0)[:, None] * q.dtype.type(attributes["scale"])
        scores = np.where(seen, scores, q.dtype.type(-np.inf))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = weights @ v.transpose(1, 0, 2)[:, None]
        return mixed.transpose(2, 0, 1, 3).reshape(fresh, heads, size)


def _need_scales(op: type[Op], kind: CacheType, given: Sequence[Type], count: int) -> None:
    """`count` scales for an i8 cache, all per channel or all per token; none for any other."""
    wanted = count if kind.dtype == "i8" else 0
    need(len(given) == wanted, op, f"a {kind} takes {wanted} scales, not {len(given)}")
    per_token = CacheType("f32", (*kind.shape[:2], 1))
    for scale in given:
        if isinstance(scale, CacheType):
            need(scale == per_token, op, f"scale is {scale}, the cache is {kind}")
        else:
            found = float_tensor(op, "scale", scale, rank=2)
            need(found.shape == kind.shape[1:], op, f"scale is {found}, the cache is {kind}")
    kinds = {type(scale) for scale in given}
    need(len(kinds) < 2, op, "one of its caches has scales per channel, the other per token")
