"""What every ATen op means in the IR: one small function each. Knows no model.

A rule gets the operands already imported (values, weights, dims, numbers) and appends nodes. It
says no to forms of its op that the IR has no words for, so that nothing is imported wrongly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import torch

from arkinfer import ir
from arkinfer.errors import UnsupportedError
from arkinfer.ir import Dim, Operand, Sym, TensorType, Value
from arkinfer.ir.types import add_dims, dtype_name, scale_dim

Rule: TypeAlias = Callable[..., Any]
"""(builder, *ATen arguments) -> a value or a dim; None for an op that is only a check."""

RULES: dict[str, Rule] = {}
"""By the name that torch.export prints, e.g. "aten.mul.Tensor"."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


class NoForm(Exception):
    """A known op in a form that the IR has no words for; says which."""


def need(condition: bool, why: str) -> None:
    if not condition:
        raise NoForm(why)


def _shape(x: Operand) -> tuple[Dim, ...]:
    return cast(TensorType, x.type).shape


def _reshaped(b: ir.Builder, x: Operand, shape: Sequence[Dim]) -> Operand:
    return x if tuple(shape) == _shape(x) else b.add("tensor.reshape", x, shape=tuple(shape))


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


# --- checks, and arithmetic on lengths -------------------------------------------------------


@rule("aten._assert_tensor_metadata.default")
def _check(b: ir.Builder, *_: Any, **__: Any) -> None:
    return None


@rule("aten.sym_size.int")
def _size(b: ir.Builder, x: Value, axis: int) -> Dim:
    return _shape(x)[axis]


@rule("add")
def _add_dims(b: ir.Builder, x: Dim, y: Dim) -> Dim:
    return add_dims(x, y)


@rule("sub")
def _sub_dims(b: ir.Builder, x: Dim, y: Dim) -> Dim:
    return add_dims(x, scale_dim(y, -1))


# --- elementwise -----------------------------------------------------------------------------


@rule("aten.mul.Tensor", "aten.mul.Scalar")
def _mul(b: ir.Builder, x: Operand, y: Any) -> Operand:
    if not _is_number(y):
        return b.add("tensor.mul", x, y)
    return x if y == 1 else b.add("tensor.scale", x, by=float(y))


@rule("aten.div.Tensor", "aten.div.Scalar")
def _div(b: ir.Builder, x: Operand, y: Any) -> Operand:
    need(_is_number(y), "a division by a tensor")
    return x if y == 1 else b.add("tensor.scale", x, by=1.0 / y)


@rule("aten.add.Tensor", "aten.add.Scalar")
def _add(b: ir.Builder, x: Operand, y: Any, alpha: float = 1) -> Operand:
    need(alpha == 1, f"alpha = {alpha}")
    if not _is_number(y):
        return b.add("tensor.add", x, y)
    return x if y == 0 else b.add("tensor.shift", x, by=float(y))


@rule("aten.le.Tensor")
def _less_equal(b: ir.Builder, x: Operand, y: Operand) -> Value:
    return b.add("tensor.le", x, y)


@rule("aten.neg.default")
def _neg(b: ir.Builder, x: Operand) -> Value:
    return b.add("tensor.neg", x)


@rule("aten.rsqrt.default")
def _rsqrt(b: ir.Builder, x: Operand) -> Value:
    return b.add("tensor.rsqrt", x)


@rule("aten.cos.default")
def _cos(b: ir.Builder, x: Operand) -> Value:
    return b.add("tensor.cos", x)


@rule("aten.sin.default")
def _sin(b: ir.Builder, x: Operand) -> Value:
    return b.add("tensor.sin", x)


@rule("aten.silu.default")
def _silu(b: ir.Builder, x: Operand) -> Value:
    return b.add("tensor.silu", x)


@rule("aten.to.dtype")
def _cast(
    b: ir.Builder, x: Operand, dtype: torch.dtype, non_blocking: bool = False, copy: bool = False
) -> Operand:
    name = _DTYPES.get(dtype)
    need(name is not None, f"the dtype {dtype}")
    assert name is not None
    return x if cast(TensorType, x.type).dtype == name else b.add("tensor.cast", x, to=name)


_DTYPES = {
    getattr(torch, kind.name): dtype_name(kind)
    for kind in ir.DTYPES.values()
    if hasattr(torch, kind.name)
}


# --- shapes ----------------------------------------------------------------------------------


@rule("aten.unsqueeze.default")
def _unsqueeze(b: ir.Builder, x: Operand, axis: int) -> Operand:
    shape = list(_shape(x))
    shape.insert(axis % (len(shape) + 1), 1)
    return _reshaped(b, x, shape)


@rule("aten.unflatten.int")
def _unflatten(b: ir.Builder, x: Operand, axis: int, sizes: Sequence[Dim]) -> Operand:
    shape = _shape(x)
    axis %= len(shape)
    whole, known = shape[axis], [s for s in sizes if s != -1]
    need(isinstance(whole, int) and all(isinstance(s, int) for s in sizes), "symbolic sizes")
    rest = cast(int, whole) // math.prod(cast("list[int]", known))
    parts = [rest if s == -1 else s for s in sizes]
    return _reshaped(b, x, (*shape[:axis], *parts, *shape[axis + 1 :]))


@rule("aten.flatten.using_ints")
def _flatten(b: ir.Builder, x: Operand, start: int = 0, end: int = -1) -> Operand:
    shape = _shape(x)
    start, end = start % len(shape), end % len(shape)
    joined = shape[start : end + 1]
    need(all(isinstance(s, int) for s in joined), "symbolic sizes")
    size = math.prod(cast("tuple[int, ...]", joined))
    return _reshaped(b, x, (*shape[:start], size, *shape[end + 1 :]))


@rule("aten.transpose.int")
def _transpose(b: ir.Builder, x: Operand, first: int, second: int) -> Value:
    axes = list(range(len(_shape(x))))
    axes[first], axes[second] = axes[second], axes[first]
    return b.add("tensor.transpose", x, axes=tuple(axes))


@rule("aten.slice.Tensor")
def _slice(
    b: ir.Builder,
    x: Operand,
    axis: int = 0,
    start: Dim | None = None,
    stop: Dim | None = None,
    step: int = 1,
) -> Operand:
    size = _shape(x)[axis]
    symbolic = any(isinstance(d, Sym) for d in (size, start, stop))
    need(not symbolic and step == 1, "symbolic ends or a step")
    first, last, _ = slice(start, stop).indices(cast(int, size))
    if (first, last) == (0, size):
        return x
    return b.add("tensor.slice", x, axis=axis % len(_shape(x)), start=first, stop=last)


@rule("aten.cat.default")
def _concat(b: ir.Builder, parts: Sequence[Operand], axis: int = 0) -> Value:
    return b.add("tensor.concat", *parts, axis=axis % len(_shape(parts[0])))


@rule("aten.arange.default")
def _arange(b: ir.Builder, stop: Dim, **options: Any) -> Value:
    return _arange_start(b, 0, stop, **options)


@rule("aten.arange.start")
def _arange_start(b: ir.Builder, start: Dim, stop: Dim, **options: Any) -> Value:
    need(options.get("dtype") in (None, torch.int64), f"the dtype {options.get('dtype')}")
    return b.add("tensor.arange", start=start, stop=stop)


@rule("aten.index_select.default")
def _take(b: ir.Builder, x: Operand, axis: int, rows: Operand) -> Value:
    need(axis == 0, f"axis {axis}")
    return b.add("tensor.take", x, rows)


# --- reductions and layers -------------------------------------------------------------------


@rule("aten.mean.dim")
def _mean(b: ir.Builder, x: Operand, axes: Sequence[int], keepdim: bool = False) -> Value:
    need(len(axes) == 1 and keepdim, f"axes {list(axes)}, keepdim = {keepdim}")
    return b.add("tensor.mean", x, axis=axes[0])


@rule("aten.embedding.default")
def _embedding(b: ir.Builder, table: Operand, tokens: Operand, *_: Any) -> Value:
    return b.add("nn.embedding", tokens, table, scale=1.0)


@rule("aten.linear.default")
def _linear(b: ir.Builder, x: Operand, weight: Operand, bias: Operand | None = None) -> Value:
    need(bias is None, "a bias")
    return b.add("nn.linear", x, weight)


@rule("aten.scaled_dot_product_attention.default")
def _attention(
    b: ir.Builder,
    q: Operand,
    k: Operand,
    v: Operand,
    mask: Operand | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    need(mask is not None and not is_causal and dropout == 0.0, "no explicit mask, or dropout")
    need(enable_gqa or _shape(q)[0] == _shape(k)[0], "head counts that differ")
    assert mask is not None
    size = cast(int, _shape(q)[-1])
    return b.add(
        "tensor.sdpa", q, k, v, mask, scale=1 / math.sqrt(size) if scale is None else scale
    )


def apply(b: ir.Builder, name: str, arguments: Sequence[Any], options: dict[str, Any]) -> Any:
    """Appends what the ATen op means; gives its result.

    Raises:
        UnsupportedError: the IR has no words for the op, or for this form of it; names the op
            and the torch module that it is in.
    """
    place = b.loc or "the model itself"
    if name not in RULES:
        raise UnsupportedError(
            f"The torch operation {name} in {place} cannot be imported",
            f"Known are {', '.join(sorted(RULES))}",
            "Write the module with these, or add a rule to arkinfer/frontend/aten.py",
        )
    try:
        return RULES[name](b, *arguments, **options)
    except (NoForm, TypeError) as error:
        raise UnsupportedError(
            f"The torch operation {name} in {place} cannot be imported",
            f"The IR has no words for this form of it: {error}",
            "Write the module without it, or extend its rule in arkinfer/frontend/aten.py",
        ) from error
