"""Finds what GroupQueryAttention does in one node: split heads, rotate, append, attend.

Knows no ONNX: it says which values and weights of the IR take part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from arkinfer import ir
from arkinfer.ir import CacheType, TensorType, Value, Weight

PACKED, SEPARATE = "packed", "separate"

CACHES = ("f32", "i8")
"""Dtypes of caches. GroupQueryAttention keeps float ones in the type that it attends in, and on a
CPU that has no bfloat16."""


@dataclass(frozen=True)
class Rotary:
    """cos and sin of position * inv_freq, times factor."""

    inv_freq: Weight
    factor: float


@dataclass(frozen=True)
class Attention:
    """One attention, ready for GroupQueryAttention.

    Attributes:
        sources: f32 [T, heads * size] of queries, keys and values; one value when they are packed
            side by side in that order.
        heads: of the queries.
        kv_heads: of keys and values.
        size: of one head.
        rotary: how queries and keys are rotated, by their positions in the sequence; None: not.
        scale: what scores are multiplied by.
        old: the caches of keys and values as they come in.
        new: the same with the new rows.
        cache_scales: f32 [kv_heads, size] each of int8 keys and values; empty: caches of float32.
    """

    sources: tuple[Value, ...]
    heads: int
    kv_heads: int
    size: int
    rotary: Rotary | None
    scale: float
    old: tuple[Value, Value]
    new: tuple[Value, Value]
    cache_scales: tuple[Weight, ...]


class NoMatch(Exception):
    """Why an attention does not fit; the text completes "it ..."."""


def match_attention(node: ir.Node) -> Attention:
    """Matches an `attn.dense` with what produces its operands.

    Raises:
        NoMatch: something there is not as GroupQueryAttention has it.
    """
    q, k_new, v_new, *computed = node.values
    if computed:
        raise NoMatch("has scales of its caches that are not weights of the model")
    k_old, k = _append(k_new, node.weights[:1])
    v_old, v = _append(v_new, node.weights[1:])
    q_flat, q_rotary = _unrotate(q, k_old, k_new)
    k_flat, k_rotary = _unrotate(k, k_old, k_new)
    if q_rotary != k_rotary:
        raise NoMatch("rotates queries and keys differently")
    heads, size = cast("tuple[int, int]", q.tensor.shape[1:])
    kv_heads = cast(int, k.tensor.shape[1])
    _check_size(size, q_rotary is not None)
    sources = _sources((q_flat, k_flat, v), heads, kv_heads, size)
    scale = cast(float, node.attributes["scale"])
    old, new, cache_scales = (k_old, v_old), (k_new, v_new), tuple(node.weights)
    return Attention(sources, heads, kv_heads, size, q_rotary, scale, old, new, cache_scales)


def _check_size(size: int, rotated: bool) -> None:
    multiple = 16 if rotated else 8
    if size % multiple:
        raise NoMatch(f"has heads of {size}; GroupQueryAttention takes multiples of {multiple}")


def _append(cache: Value, scales: list[Weight]) -> tuple[Value, Value]:
    """The cache before, and the rows that were appended to it; it is read by these scales."""
    node = cache.producer
    if node is None or node.op != "cache.append":
        raise NoMatch("reads a cache that nothing was appended to")
    old, rows, *_ = node.values
    if old.producer is not None or not isinstance(old.type, CacheType):
        raise NoMatch("appends to what is not an input of the function")
    if old.type.dtype not in CACHES:
        known = " or ".join(CACHES)
        raise NoMatch(f"attends in float32 to a cache of {known}, not of {old.type.dtype}")
    if node.weights != scales:
        raise NoMatch("writes its caches with other scales than it reads them")
    return old, rows


def _unrotate(value: Value, old: Value, new: Value) -> tuple[Value, Rotary | None]:
    node = value.producer
    if node is None or node.op != "nn.rope":
        return value, None
    x, positions = node.values
    (inv_freq,) = node.weights
    source = positions.producer
    span = (old.type.shape[0], new.type.shape[0])
    if source is None or source.op != "tensor.arange":
        raise NoMatch("rotates by positions that are not those in the sequence")
    if (source.attributes["start"], source.attributes["stop"]) != span:
        raise NoMatch("rotates by positions that are not those in the sequence")
    return x, Rotary(inv_freq, cast(float, node.attributes.get("factor", 1.0)))


def _sources(
    values: tuple[Value, Value, Value], heads: int, kv_heads: int, size: int
) -> tuple[Value, ...]:
    found = [_split(value) for value in values]
    flat = tuple(source for source, _ in found)
    starts = [start for _, start in found]
    if starts == [None, None, None]:
        return flat
    width = (heads + 2 * kv_heads) * size
    if starts != [0, heads, heads + kv_heads] or len(set(flat)) != 1:
        raise NoMatch("takes queries, keys and values from different places")
    if flat[0].tensor.shape[1] != width:
        raise NoMatch("takes queries, keys and values from a part of a wider value")
    return flat[:1]


def _split(value: Value) -> tuple[Value, int | None]:
    """The [T, width] that a [T, heads, size] was cut from, and from which head on."""
    start: int | None = None
    node = value.producer
    if node is not None and node.op == "tensor.slice":
        if node.attributes["axis"] not in (1, -2):
            raise NoMatch("cuts heads along another axis")
        start = cast(int, node.attributes["start"])
        node = node.values[0].producer
    if node is None or node.op != "tensor.reshape":
        raise NoMatch("has heads that do not come from one matrix product")
    source = node.values[0]
    kind, split = source.type, node.result.tensor.shape
    if not isinstance(kind, TensorType) or len(kind.shape) != 2 or kind.shape[0] != split[0]:
        raise NoMatch("has heads that do not come from one matrix product")
    return source, start
