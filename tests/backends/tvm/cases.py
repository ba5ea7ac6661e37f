"""Functions of one or two ops, with shapes that fit no vector: what `test_ops` runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from arkinfer import ir
from arkinfer.ir import Builder, CacheType, TensorType, Value, Weight, dim
from arkinfer.packing import parse_scheme

Build = Callable[["Draft"], Value]


class Draft:
    """A function of one or two ops under construction."""

    def __init__(self) -> None:
        self.builder = Builder(ir.infer_types)
        self.inputs: list[Value] = []
        self.add = self.builder.add

    def tensor(self, name: str, *shape: int | str, dtype: str = "f32") -> Value:
        self.inputs.append(Value(TensorType(dtype, tuple(dim(d) for d in shape)), name))
        return self.inputs[-1]

    def cache(self, name: str, heads: int, size: int, dtype: str = "f32") -> Value:
        self.inputs.append(Value(CacheType(dtype, (dim("S"), heads, size)), name))
        return self.inputs[-1]


def matrix(name: str, rows: int, columns: int, kind: str = "f32") -> Weight:
    """A dense weight, or a quantized one where `kind` is a scheme's name."""
    if kind in ir.DTYPES:
        return Weight(name, TensorType(kind, (rows, columns)))
    return Weight(name, ir.QuantizedType(parse_scheme(kind), (rows, columns)))


def vector(name: str, size: int, dtype: str = "f32") -> Weight:
    return Weight(name, TensorType(dtype, (size,)))


def linear(rows: int, columns: int, kind: str, activations: str = "any") -> Build:
    def build(d: Draft) -> Value:
        x, w = d.tensor("x", "T", columns), matrix("w", rows, columns, kind)
        if kind in ir.DTYPES:
            return d.add("nn.linear", x, w)
        return d.add("quant.linear", x, w, activations=activations)

    return build


def added(rows: int, columns: int, kind: str) -> Build:
    """A product that is added to something."""
    return lambda d: d.add(
        "nn.add", d.tensor("residual", "T", rows), linear(rows, columns, kind)(d), scale=0.3
    )


def gated(rows: int, columns: int, kind: str, activations: str = "any") -> Build:
    """Two products of one input, normed, one of which gates the other."""

    def build(d: Draft) -> Value:
        x, attributes = d.tensor("x", "T", columns), {}
        op = "nn.linear" if kind in ir.DTYPES else "quant.linear"
        if kind not in ir.DTYPES:
            attributes = {"activations": activations}
        both = [
            d.add(op, x, matrix(name, rows, columns, kind), **attributes) for name in ("w", "u")
        ]
        return d.add("nn.silu_mul", *both)

    return build


def embedding(rows: int, columns: int, kind: str, scale: float) -> Build:
    op = "nn.embedding" if kind in ir.DTYPES else "quant.embedding"
    return lambda d: d.add(
        op, d.tensor("tokens", "T", dtype="i64"), matrix("w", rows, columns, kind), scale=scale
    )


def norm(size: int, eps: float, dtype: str = "f32") -> Build:
    return lambda d: d.add(
        "nn.rms_norm", d.tensor("x", "T", size), vector("w", size, dtype), eps=eps
    )


def rope(heads: int, size: int, factor: float) -> Build:
    def build(d: Draft) -> Value:
        x, positions = d.tensor("x", "T", heads, size), d.tensor("positions", "T", dtype="i64")
        return d.add("nn.rope", x, positions, vector("inv_freq", size // 2), factor=factor)

    return build


def attention(
    heads: int, kv_heads: int, size: int, scale: float = 0.3, per: str = "", dtype: str = "f32"
) -> Build:
    """`per`: what int8 caches have scales for, "channel" or "token"; "": caches of `dtype`."""

    def build(d: Draft) -> Value:
        q, caches, scales = d.tensor("q", "T", heads, size), [], []
        for name in "kv":
            rows = d.tensor(name, "T", kv_heads, size)
            old = d.cache(f"{name}c", kv_heads, size, "i8" if per else dtype)
            if per == "token":
                kept = d.cache(f"{name}c.scale", kv_heads, 1)
                new, grown = d.builder.add_multi("cache.append", old, rows, kept)
                scales.append(grown)
            else:
                given = [matrix(f"{name}_scale", kv_heads, size)] if per else []
                new = d.add("cache.append", old, rows, *given)
                scales += given
            caches.append(new)
        return d.add("attn.dense", q, *caches, *scales, scale=scale)

    return build


def pair(op: str, *shape: int | str, **attributes: Any) -> Build:
    return lambda d: d.add(op, d.tensor("a", *shape), d.tensor("b", *shape), **attributes)


def sliced(op: str) -> Build:
    """An op on a slice that starts at no vector's boundary."""

    def build(d: Draft) -> Value:
        packed = d.add("tensor.reshape", d.tensor("x", "T", 30), shape=(dim("T"), 5, 6))
        part = d.add("tensor.slice", packed, axis=1, start=1, stop=4)
        if op == "nn.rope":
            positions = d.tensor("positions", "T", dtype="i64")
            return d.add(op, part, positions, vector("inv_freq", 3), factor=1.0)
        if op == "tensor.take":
            return d.add(op, part, d.tensor("rows", "R", dtype="i64"))
        if op == "cache.append":
            k, v = (d.add(op, d.cache(name, 3, 6), part) for name in ("kc", "vc"))
            return d.add("attn.dense", part, k, v, scale=1.0)
        if op == "nn.add":
            return d.add(op, part, part, scale=-0.5)
        flat = d.add("tensor.reshape", part, shape=(dim("T"), 18))
        if op == "nn.rms_norm":
            return d.add(op, flat, vector("w", 18), eps=1e-5)
        if op == "quant.linear":
            return d.add(op, flat, matrix("w", 5, 18, "int8-row"), activations="any")
        assert op == "nn.linear"
        return d.add(op, flat, matrix("w", 5, 18))

    return build


CASES: dict[str, Build] = {
    **{
        f"nn.linear {rows}x{columns} {kind}": linear(rows, columns, kind)
        for rows, columns, kind in [
            (7, 48, "f32"), (1, 1, "f32"), (33, 10, "f32"), (5, 7, "bf16"), (64, 64, "bf16"),
            (9, 24, "f16"), (16, 256, "f16"),
        ]
    },
    **{
        f"quant.linear {rows}x{columns} {kind}": linear(rows, columns, kind)
        for rows, columns, kind in [
            (7, 64, "int4-g32"), (33, 256, "int4-g128"), (3, 6, "int4-g2"), (9, 296, "int4-row"),
            (5, 160, "int4-g32-asym"),
            (5, 96, "int4-g32-min"), (5, 96, "int4-g32-actorder"), (6, 56, "int8-row"),
            (6, 7, "int8-row"), (6, 96, "int8-g32-asym"), (6, 64, "int8-g16-min"),
            (6, 64, "int8-g32-actorder"), (5, 128, "int2-g64"), (5, 192, "int2-g64-asym"),
            (5, 12, "int2-g4"), (5, 64, "int2-row-min"), (2, 36, "int2-g12-asym-actorder"),
            (5, 96, "int3-g32"), (5, 72, "int3-g8-asym"), (5, 64, "int5-g32-min"),
            (5, 60, "int6-g20-asym"), (5, 256, "int6-row"), (3, 128, "int7-g64-asym-actorder"),
        ]
    },
    **{
        f"quant.linear {rows}x{columns} {kind}, activations as they are": linear(
            rows, columns, kind, "f32"
        )
        for rows, columns, kind in [
            (33, 256, "int4-g128"), (5, 96, "int4-g32-asym"), (5, 96, "int4-g32-min"),
            (5, 96, "int4-g32-actorder"), (3, 6, "int4-g2"), (6, 7, "int8-row"),
            (6, 96, "int8-g32-asym"), (6, 64, "int8-g16-min"), (130, 128, "int2-g64"),
            (5, 60, "int6-g20-asym"),
        ]
    },
    **{
        f"quant.linear {rows}x{columns} {kind}, activations in two digits": linear(
            rows, columns, kind, "i16"
        )
        for rows, columns, kind in [
            (33, 256, "int4-g128"), (5, 96, "int4-g32-min"), (5, 96, "int4-g32-actorder"),
            (6, 56, "int8-row"), (5, 192, "int2-g64-asym"), (5, 12, "int2-g4"),
        ]
    },
    "nn.silu_mul of products, activations in two digits": gated(40, 64, "int4-g32", "i16"),
    **{
        f"nn.add of a product {rows}x{columns} {kind}": added(rows, columns, kind)
        for rows, columns, kind in [(33, 128, "int4-g32"), (48, 40, "int8-row"), (20, 24, "f32")]
    },
    **{
        f"nn.silu_mul of products {rows}x{columns} {kind}": gated(rows, columns, kind)
        for rows, columns, kind in [(33, 128, "int4-g32"), (48, 64, "int2-row"), (20, 24, "bf16")]
    },
    "nn.silu_mul of products, activations as they are": gated(40, 64, "int4-g32", "f32"),
    "quant.linear int8-row/bf16 scales": linear(5, 64, "int8-row"),
    "quant.embedding int4-g32/bf16 scales": embedding(9, 64, "int4-g32", 1.0),
    **{
        f"nn.embedding {kind}": embedding(rows, columns, kind, scale)
        for rows, columns, kind, scale in [
            (9, 20, "f32", 1.0), (9, 7, "bf16", 12.0), (9, 32, "f16", -3.0),
        ]
    },
    **{
        f"quant.embedding {kind}": embedding(11, columns, kind, 2.5)
        for columns, kind in [
            (64, "int4-g32"), (48, "int4-g16-asym"), (96, "int4-g32-min"), (40, "int8-row"),
            (64, "int8-g32-asym"), (12, "int2-g4"), (64, "int4-g32-actorder"), (14, "int4-row"),
            (48, "int3-g16-asym"), (40, "int5-g8-min"), (44, "int6-g4-asym"), (64, "int7-row"),
        ]
    },
    "nn.rms_norm 64": norm(64, 1e-5),
    "nn.rms_norm 10 large eps": norm(10, 0.5),
    "nn.rms_norm 48 bf16": norm(48, 1e-6, "bf16"),
    "nn.rope 3 heads of 16": rope(3, 16, 1.0),
    "nn.rope 1 head of 10, factor": rope(1, 10, 1.19),
    "nn.silu_mul 24": pair("nn.silu_mul", "T", 24),
    "nn.silu_mul 5": pair("nn.silu_mul", "T", 5),
    "nn.add 20": pair("nn.add", "T", 20, scale=0.25),
    "nn.add rank 3": pair("nn.add", "T", 3, 5, scale=1.0),
    "attn.dense group 4": attention(4, 1, 16),
    "attn.dense group 1, size 24": attention(3, 3, 24),
    "attn.dense group 3 of 2, size 10": attention(6, 2, 10),
    "attn.dense size 128, large scores": attention(2, 1, 128, scale=2.0),
    "attn.dense bf16": attention(4, 2, 16, dtype="bf16"),
    "attn.dense bf16, size 7": attention(3, 1, 7, dtype="bf16"),
    "attn.dense f16, size 64": attention(4, 2, 64, dtype="f16"),
    "attn.dense int8 cache": attention(4, 2, 16, 0.1, "channel"),
    "attn.dense int8 cache, size 10": attention(3, 1, 10, 0.1, "channel"),
    "attn.dense int8 by token": attention(4, 2, 16, 0.02, "token"),
    "attn.dense int8 by token, size 10": attention(3, 1, 10, 0.02, "token"),
    "attn.dense int8 by token, size 7": attention(6, 2, 7, 0.02, "token"),
    "attn.dense int8 by token, size 64": attention(4, 2, 64, 0.02, "token"),
    "attn.dense int8 by token, size 128": attention(2, 2, 128, 0.02, "token"),
    "tensor.take": lambda d: d.add(
        "tensor.take", d.tensor("x", "T", 12), d.tensor("rows", "R", dtype="i64")
    ),
    "tensor.arange": lambda d: (
        d.tensor("x", "T", 1), d.tensor("rows", "R", dtype="i64"),
        d.add("tensor.arange", start=dim("2*R"), stop=dim("2*R + T")),
    )[-1],
    **{
        f"{op} of a slice": sliced(op)
        for op in (
            "nn.rope", "tensor.take", "cache.append", "nn.add", "nn.rms_norm", "nn.linear",
            "quant.linear",
        )
    },
}  # fmt: skip
