"""Names of the weights that passes derive from others. Knows no pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from arkinfer.ir import Derived, Module, QuantizedType, TensorType, Weight


def derived(module: Module, weight: Weight) -> Weight:
    """The weight, under a longer name if its own is taken by another one."""
    name, number = weight.name, 2
    while module.weights.get(weight.name, weight) != weight:
        weight = replace(weight, name=f"{name}.{number}")
        number += 1
    return weight


def dense_form(module: Module, weight: Weight) -> Weight:
    """What a quantized weight was before it was quantized; others are that themselves.

    A stack of quantized matrices becomes a stack of dense ones, which the module then declares.
    """
    source = weight.source
    if not isinstance(weight.type, QuantizedType) or source is None:
        return weight
    parts = [dense_form(module, module.weights[name]) for name in source.inputs]
    if source.rule != "concat":
        (part,) = parts
        return part
    names = tuple(part.name for part in parts)
    dtype = parts[0].type.dtype if isinstance(parts[0].type, TensorType) else "f32"
    kind = TensorType(dtype, weight.type.shape)
    stack = Weight(joined_name(names), kind, Derived("concat", names))
    return module.add_weight(derived(module, stack))


def joined_name(names: Sequence[str]) -> str:
    """What the names share, with what differs in a row between.

    >>> joined_name(["a.q_proj.weight", "a.k_proj.weight", "a.v_proj.weight"])
    'a.qkv_proj.weight'
    """
    start = _shared(names)
    rests = [name[start:] for name in names]
    stop = _shared([rest[::-1] for rest in rests])
    middles = [rest[: len(rest) - stop] for rest in rests]
    return names[0][:start] + "".join(middles) + rests[0][len(rests[0]) - stop :]


def common_path(paths: Sequence[str]) -> str:
    """The innermost torch module that holds all of these.

    >>> common_path(["model.layers.0.attn.q", "model.layers.0.attn.k"])
    'model.layers.0.attn'
    """
    parts = [path.split(".") for path in paths]
    return ".".join(parts[0][: _shared(parts)])


def _shared(items: Sequence[Sequence[str]]) -> int:
    """How many elements from the first on are the same in all."""
    count = 0
    for column in zip(*items, strict=False):
        if len(set(column)) > 1:
            break
        count += 1
    return count
