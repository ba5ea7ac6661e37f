"""`cache.*` and `attn.*`: key-value state and attention over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from arkinfer.ir.ops.base import Array, Op, cache, float_tensor, need
from arkinfer.ir.types import CacheType, TensorType, Type, add_dims


class Append(Op):
    """The cache with new rows at its end: cache [S, N, D], f32 [T, N, D] -> cache [S + T, N, D].

    A backend may do it in place: the old cache has no other user.
    """

    name = "cache.append"
    operands = ("cache", "rows")

    @classmethod
    def infer(cls, types: Sequence[Type], attributes: Mapping[str, Any]) -> list[Type]:
        old, rows = cache(cls, "cache", types[0]), float_tensor(cls, "rows", types[1], rank=3)
        need(old.shape[1:] == rows.shape[1:], cls, f"cache is {old}, rows are {rows}")
        return [CacheType(old.dtype, (add_dims(old.shape[0], rows.shape[0]), *old.shape[1:]))]

    @classmethod
    def ref(cls, operands: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
        old, rows = operands
        return [np.concatenate((old, rows.astype(old.dtype, copy=False)), axis=0)]


class Dense(Op):
    """Causal softmax attention of the last T tokens over a cache that already holds them.

    f32 q [T, H, D], cache k and v [L, Hkv, D] with T <= L -> f32 [T, H, D]. Query head a reads
    kv head a // (H / Hkv); query row t sees cache rows 0 … L - T + t. Scores are multiplied by
    `scale`. Source: Vaswani et al. 2017, eq. 1; Ainslie et al. 2023 (grouped queries).
    """

    name = "attn.dense"
    operands = ("q", "k", "v")
    attributes = {"scale": ...}

    @classmethod
    def infer(cls, types: Sequence[Type], attributes: Mapping[str, Any]) -> list[Type]:
        q = float_tensor(cls, "q", types[0], rank=3)
        k, v = cache(cls, "k", types[1]), cache(cls, "v", types[2])
        need(k.shape == v.shape, cls, f"k is {k}, v is {v}")
        heads, kv_heads = q.shape[1], k.shape[1]
        fits = isinstance(heads, int) and isinstance(kv_heads, int) and heads % kv_heads == 0
        need(fits and q.shape[2] == k.shape[2], cls, f"q is {q}, k is {k}")
        return [TensorType(q.dtype, q.shape)]

    @classmethod
    def ref(cls, operands: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
        q, k, v = operands[0], operands[1].astype(operands[0].dtype), operands[2]
        fresh, heads, size = q.shape
        length, kv_heads, _ = k.shape
        grouped = q.reshape(fresh, kv_heads, heads // kv_heads, size).transpose(1, 2, 0, 3)
        scores = grouped @ k.transpose(1, 2, 0)[:, None] * q.dtype.type(attributes["scale"])
        seen = np.arange(length)[None, :] <= np.arange(length - fresh, length)[:, None]
        scores = np.where(seen, scores, q.dtype.type(-np.inf))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = weights @ v.astype(q.dtype).transpose(1, 0, 2)[:, None]
        return [mixed.transpose(2, 0, 1, 3).reshape(fresh, heads, size)]
