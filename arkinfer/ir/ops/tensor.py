"""`tensor.*`: the few general ops that tracing needs before fusion.

Sources: the ATen ops of the same names; each docstring says where it is narrower.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from arkinfer.ir.ops.base import Array, Op, float_tensor, need, tensor, wide
from arkinfer.ir.types import (
    DTYPES,
    FLOATS,
    Dim,
    Shape,
    Sym,
    TensorType,
    Type,
    add_dims,
    dim,
    scale_dim,
)


def broadcast(op: type[Op], a: Shape, b: Shape) -> Shape:
    """NumPy's rule; a symbolic dim matches itself and 1."""
    longest = max(len(a), len(b))
    left = (1,) * (longest - len(a)) + a
    right = (1,) * (longest - len(b)) + b
    out: list[Dim] = []
    for x, y in zip(left, right, strict=True):
        need(x == y or x == 1 or y == 1, op, f"dims {x} and {y} do not broadcast")
        out.append(y if x == 1 else x)
    return tuple(out)


def axis_of(op: type[Op], axis: int, rank: int) -> int:
    need(-rank <= axis < rank, op, f"there is no axis {axis} among {rank}")
    return axis % rank


class Unary(Op):
    """Base of float, elementwise ops with one operand and no attribute."""

    operands = ("x",)

    @classmethod
    def infer(cls, types: Sequence[Type], attributes: Mapping[str, Any]) -> list[Type]:
        return [float_tensor(cls, "x", types[0])]

    @classmethod
    def apply(cls, x: Array) -> Array:
        return x

    @classmethod
    def ref(cls, operands: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
        return [cls.apply(operands[0])]


class Neg(Unary):
    """-x."""

    name = "tensor.neg"

    @classmethod
    def apply(cls, x: Array) -> Array:
        return -x


class Rsqrt(Unary):
    """1 / sqrt(x)."""

    name = "tensor.rsqrt"

    @classmethod
    def apply(cls, x: Array) -> Array:
        return 1 / np.sqrt(x)


class Cos(Unary):
    """cos(x), radians."""

    name = "tensor.cos"

    @classmethod
    def apply(cls, x: Array) -> Array:
        return np.cos(x)


class Sin(Unary):
    """sin(x), radians."""

    name = "tensor.sin"

    @classmethod
    def apply(cls, x: Array) -> Array:
        return np.sin(x)


class Silu(Unary):
    """x / (1 + exp(-x))."""

    name = "tensor.silu"

    @classmethod
    def apply(cls, x: Array) -> Array:
        with np.errstate(over="ignore"):
            return x / (1 + np.exp(-x))


class Scale(Op):
    """x * by, with a constant."""

    name = "tensor.scale"
    operands = ("x",)
    attributes = {"by": ...}

    @classmethod
    def infer(cls, types: Sequence[Type], attributes: Mapping[str, Any]) -> list[Type]:
        return [float_tensor(cls, "x", types[0])]

    @classmethod
    def ref(cls, operands: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
        return [operands[0] * operands[0].dtype.type(attributes["by"])]


class Shift(Op):
    """x + by, with a constant."""

    name = "tensor.shift"
    operands = ("x",)
    attributes = {"by": ...}

    @classmethod
    def infer(cls, types: Sequence[Type], attributes: Mapping[str, Any]) -> list[Type]:
        return [float_tensor(cls, "x", types[0])]

    @classmethod
    def ref(cls, operands: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
        return [operands[0] + operands[0].dtype.type(attributes["by"])]


class Cast(Op):
    """x as another dtype: `to` is an IR dtype name. Floats stay as wide as they are computed."""

    name = "tensor.cast"
    operands = ("x",)
    attributes = {"to": ...}

    @classmethod
    def infer(cls, types: Sequence[Type], attributes: Mapping[str, Any]) -> list[Type]:
        need(attributes["to"] in DTYPES, cls, f'"{attributes["to"]}" is not a dtype')
        return [TensorType(attributes["to"], tensor(cls, "x", types[0]).shape)]

    @classmethod
    def ref(cls, operands: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
        x, to = operands[0], attributes["to"]
        if to in FLOATS:
            return [x.astype(np.float32) if x.dtype.kind in "biu" else wide(x)]
        return [x.astype(DTYPES[to])]


class Binary(Op):
    """Base of float, elementwise, broadcasting ops with two operands."""

    operands = ("a", "b")
    ufunc: ClassVar[Any] = None

    @classmethod
    def infer(cls, types: Sequence[Type], attributes: Mapping[str, Any]) -> list[Type]:
        a, b = float_tensor(cls, "a", types[0]), float_tensor(cls, "b", types[1])
        return [TensorType("f32", broadcast(cls, a.shape, b.shape))]

    @classmethod
    def ref(cls, operands: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
        return [cls.ufunc(wide(operands[0]), wide(operands[1]))]


class Add(Binary):
    """a + b."""

    name = "tensor.add"
    ufunc = np.add


class Mul(Binary):
    """a * b."""

    name = "tensor.mul"
    ufunc = np.multiply


class LessEqual(Op):
    """a <= b on integers: i64, i64 -> bool, broadcasting."""

    name = "tensor.le"
    operands = ("a", "b")

    @classmethod
    def infer(cls, types: Sequence[Type], attributes: Mapping[str, Any]) -> list[Type]:
        a, b = tensor(cls, "a", types[0], "i64"), tensor(cls, "b", types[1], "i64")
        return [TensorType("bool", broadcast(cls, a.shape, b.shape))]

    @classmethod
    def ref(cls, operands: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
        return [operands[0] <= operands[1]]


class Mean(Op):
    """The mean over one axis, kept as 1: f32 -> f32."""

    name = "tensor.mean"
    operands = ("x",)
    attributes = {"axis": -1}

    @classmethod
    def infer(cls, types: Sequence[Type], attributes: Mapping[str, Any]) -> list[Type]:
        x = float_tensor(cls, "x", types[0])
        shape = list(x.shape)
        shape[axis_of(cls, attributes["axis"], len(shape))] = 1
        return [TensorType(x.dtype, tuple(shape))]

    @classmethod
    def ref(cls, operands: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
        x = operands[0]
        return [np.mean(x, axis=attributes["axis"], keepdims=True, dtype=x.dtype)]


class Arange(Op):
    """start, start + 1 … stop - 1: -> i64 [stop - start]. Both may be symbolic."""

    name = "tensor.arange"
    attributes = {"start": ..., "stop": ...}

    @classmethod
    def infer(cls, types: Sequence[Type], attributes: Mapping[str, Any]) -> list[Type]:
        start, stop = attributes["start"], attributes["stop"]
        length = add_dims(stop, scale_dim(start, -1))
        empty = isinstance(length, int) and length < 1
        need(not empty, cls, f"from {start} to {stop} there is nothing")
        return [TensorType("i64", (length,))]

    @classmethod
    def ref(cls, operands: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
        return [np.arange(attributes["start"], attributes["stop"], dtype=np.int64)]


class Reshape(Op):
    """The same elements under another shape, which may name symbols."""

    name = "tensor.reshape"
    operands = ("x",)
    attributes = {"shape": ...}

    @classmethod
    def infer(cls, types: Sequence[Type], attributes: Mapping[str, Any]) -> list[Type]:
        x = tensor(cls, "x", types[0])
        shape = tuple(d if isinstance(d, Sym) else dim(d) for d in attributes["shape"])
        same = _elements(x.shape) == _elements(shape)
        need(same, cls, f"{x} has not the elements of {TensorType(x.dtype, shape)}")
        return [TensorType(x.dtype, shape)]

    @classmethod
    def ref(cls, operands: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
        return [operands[0].reshape(attributes["shape"])]


def _elements(shape: Shape) -> tuple[int, tuple[str, ...]]:
    """A product in normal form: integer factor, sorted symbolic factors without a common one."""
    constant = 1
    factors: list[str] = []
    for d in shape:
        if isinstance(d, int):
            constant *= d
            continue
        common = math.gcd(d.constant, *(factor for _, factor in d.terms))
        constant *= common
        factors.append(str(Sym(tuple((n, f // common) for n, f in d.terms), d.constant // common)))
    return constant, tuple(sorted(factors))


class Transpose(Op):
    """Axes permuted."""

    name = "tensor.transpose"
    operands = ("x",)
    attributes = {"axes": ...}

    @classmethod
    def infer(cls, types: Sequence[Type], attributes: Mapping[str, Any]) -> list[Type]:
        x, axes = tensor(cls, "x", types[0]), attributes["axes"]
        need(sorted(axes) == list(range(len(x.shape))), cls, f"{axes} do not permute {x}")
        return [TensorType(x.dtype, tuple(x.shape[a] for a in axes))]

    @classmethod
    def ref(cls, operands: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
        return [operands[0].transpose(attributes["axes"])]


class Slice(Op):
    """x[start:stop] along one axis; both are integers, 0 <= start < stop <= the dim."""

    name = "tensor.slice"
    operands = ("x",)
    attributes = {"axis": ..., "start": ..., "stop": ...}

    @classmethod
    def infer(cls, types: Sequence[Type], attributes: Mapping[str, Any]) -> list[Type]:
        x = tensor(cls, "x", types[0])
        axis = axis_of(cls, attributes["axis"], len(x.shape))
        size, start, stop = x.shape[axis], attributes["start"], attributes["stop"]
        need(isinstance(size, int), cls, f"axis {axis} of {x} is symbolic")
        need(0 <= start < stop <= size, cls, f"{start}:{stop} is outside of axis {axis} of {x}")
        return [TensorType(x.dtype, (*x.shape[:axis], stop - start, *x.shape[axis + 1 :]))]

    @classmethod
    def ref(cls, operands: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
        x = operands[0]
        index = [slice(None)] * x.ndim
        index[attributes["axis"]] = slice(attributes["start"], attributes["stop"])
        return [x[tuple(index)]]


class Concat(Op):
    """The operands one after the other along one axis."""

    name = "tensor.concat"
    operands = ("parts*",)
    attributes = {"axis": ...}

    @classmethod
    def infer(cls, types: Sequence[Type], attributes: Mapping[str, Any]) -> list[Type]:
        need(len(types) > 0, cls, "there is nothing to join")
        parts = [tensor(cls, "parts", t) for t in types]
        axis = axis_of(cls, attributes["axis"], len(parts[0].shape))
        total: Dim = 0
        for part in parts:
            rest = (part.dtype, part.shape[:axis], part.shape[axis + 1 :])
            first = (parts[0].dtype, parts[0].shape[:axis], parts[0].shape[axis + 1 :])
            need(rest == first, cls, f"{parts[0]} and {part} do not join along axis {axis}")
            total = add_dims(total, part.shape[axis])
        shape = parts[0].shape
        return [TensorType(parts[0].dtype, (*shape[:axis], total, *shape[axis + 1 :]))]

    @classmethod
    def ref(cls, operands: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
        return [np.concatenate(operands, axis=attributes["axis"])]


class Take(Op):
    """x[rows]: f32 [T, …], i64 [R] -> f32 [R, …]. Source: `torch.index_select`, axis 0."""

    name = "tensor.take"
    operands = ("x", "rows")

    @classmethod
    def infer(cls, types: Sequence[Type], attributes: Mapping[str, Any]) -> list[Type]:
        x, rows = tensor(cls, "x", types[0]), tensor(cls, "rows", types[1], "i64")
        return [TensorType(x.dtype, (*rows.shape, *x.shape[1:]))]

    @classmethod
    def ref(cls, operands: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
        return [operands[0][operands[1]]]


class MaskedAttention(Op):
    """softmax(scale * q k^T, where mask) v with grouped heads.

    f32 q [H, T, D], k and v [Hkv, L, D], bool mask [T, L] -> f32 [H, T, D].
    Source: `torch.nn.functional.scaled_dot_product_attention(enable_gqa=True)`.
    """

    name = "tensor.sdpa"
    operands = ("q", "k", "v", "mask")
    attributes = {"scale": ...}

    @classmethod
    def infer(cls, types: Sequence[Type], attributes: Mapping[str, Any]) -> list[Type]:
        q, k = float_tensor(cls, "q", types[0], rank=3), float_tensor(cls, "k", types[1], rank=3)
        v, mask = float_tensor(cls, "v", types[2], rank=3), tensor(cls, "mask", types[3], "bool")
        heads, kv_heads = q.shape[0], k.shape[0]
        fits = isinstance(heads, int) and isinstance(kv_heads, int) and heads % kv_heads == 0
        need(fits and k.shape == v.shape and q.shape[2] == k.shape[2], cls, f"{q}, {k}, {v}")
        need(mask.shape == (q.shape[1], k.shape[1]), cls, f"mask is {mask}, q {q}, k {k}")
        return [q]

    @classmethod
    def ref(cls, operands: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
        q, k, v, mask = operands
        groups = q.shape[0] // k.shape[0]
        k, v = np.repeat(k, groups, axis=0), np.repeat(v, groups, axis=0)
        scores = q @ k.transpose(0, 2, 1) * q.dtype.type(attributes["scale"])
        scores = np.where(mask, scores, q.dtype.type(-np.inf))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return [weights / weights.sum(axis=-1, keepdims=True) @ v]
