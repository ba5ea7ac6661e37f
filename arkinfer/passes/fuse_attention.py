"""Masked attention over joined caches becomes `cache.append` and `attn.dense`. Knows no model.

The inputs that held keys and values as tensors become caches, as do the results that hold them
with the new rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from arkinfer import ir
from arkinfer.ir import Builder, CacheType, Dim, Module, Node, Operand, TensorType, Value
from arkinfer.ir.types import add_dims
from arkinfer.passes.match import Pattern, Uses, need
from arkinfer.passes.rewrite import Rewrite, rewrite_at

HEADS_FIRST = (1, 0, 2)
"""[T, H, D] -> [H, T, D], and back."""


@dataclass(frozen=True)
class FuseAttention:
    name = "fuse-attention"

    def run(self, module: Module) -> bool:
        return rewrite_at(module, self.name, ("tensor.sdpa",), _attempt)


@dataclass(frozen=True)
class _Joined:
    """A cache with new rows at its end."""

    node: Node
    cache: Value
    rows: Value


def _attempt(uses: Uses, attention: Node) -> Rewrite:
    pattern = Pattern(uses, attention)
    q, k, v, mask = attention.operands
    query = _heads_last(pattern, q, "q")
    keys = _joined(pattern, _heads_last(pattern, k, "k"), "k")
    values = _joined(pattern, _heads_last(pattern, v, "v"), "v")
    need(keys.cache is not values.cache, "keys and values come from one cache")
    seen, fresh = keys.cache.type.shape[0], query.type.shape[0]
    same = values.cache.type.shape[0] == seen
    need(same, "keys and values are not joined in the same order")
    need(keys.rows.type.shape[0] == fresh, "there are not as many queries as new rows")
    _need_causal(pattern, mask, seen, fresh)
    back = pattern.user(attention.result, "tensor.transpose", "the result stays heads first")
    need(back.attributes["axes"] == HEADS_FIRST, "the result is not [tokens, heads, head_dim]")
    b = Builder(ir.infer_types)
    b.loc = back.loc
    old = [_as_cache(each.cache) for each in (keys, values)]
    new = [b.add("cache.append", o, each.rows) for o, each in zip(old, (keys, values), strict=True)]
    mixed = b.add("attn.dense", query, *new, scale=attention.attributes["scale"])
    results = {keys.node.result: new[0], values.node.result: new[1], back.result: mixed}
    inputs = {keys.cache: old[0], values.cache: old[1]}
    return Rewrite(pattern, b.nodes, results, back, inputs)


def _as_cache(value: Value) -> Value:
    return Value(CacheType(value.tensor.dtype, value.tensor.shape), value.name)


def _heads_last(pattern: Pattern, operand: Operand, name: str) -> Value:
    node = pattern.producer(operand, "tensor.transpose", f"{name} is not put heads first")
    need(node.attributes["axes"] == HEADS_FIRST, f"{name} is not put heads first")
    (value,) = node.values
    return value


def _joined(pattern: Pattern, value: Value, name: str) -> _Joined:
    """An input of the function and new rows, joined; nobody else reads that input."""
    otherwise = f"{name} is not a cache with new rows at its end"
    node = pattern.producer(value, "tensor.concat", otherwise)
    need(len(node.operands) == 2 and node.attributes["axis"] == 0, otherwise)
    cache, rows = node.operands
    need(isinstance(cache, Value) and isinstance(rows, Value), otherwise)
    assert isinstance(cache, Value)
    assert isinstance(rows, Value)
    backwards = rows.producer is None and cache.producer is not None
    need(not backwards, f"the new rows of {name} come before the cache, not after it")
    need(cache.producer is None, f"{otherwise}: what it begins with is computed")
    kind = cache.type
    need(isinstance(kind, TensorType) and len(kind.shape) == 3, f"the cache of {name} is {kind}")
    need(pattern.uses.only(cache) is node, f"the cache of {name} has another user")
    others = [user for user in pattern.uses.nodes(node.result) if user not in pattern.own]
    need(not others, f"{name} with its new rows has another user, {', '.join(map(_op, others))}")
    return _Joined(node, cache, rows)


def _need_causal(pattern: Pattern, mask: Operand, seen: Dim, fresh: Dim) -> None:
    """mask[t, s] = s <= seen + t, for all s below seen + fresh."""
    node = pattern.producer(mask, "tensor.le", "the mask is no comparison", shared=True)
    total = add_dims(seen, fresh)
    sides = [_counted(pattern, operand) for operand in node.operands]
    shapes = [operand.type.shape for operand in node.operands]
    keys, queries = (0, total), (seen, total)
    need(
        (sides, shapes) != ([queries, keys], [(fresh, 1), (1, total)]),
        "the mask lets a query see what comes after it, and nothing before",
    )
    need(
        (sides, shapes) == ([keys, queries], [(1, total), (fresh, 1)]),
        f"the mask compares {_text(sides[0])} with {_text(sides[1])}, and causal is {_text(keys)} "
        f"with {_text(queries)}",
    )


def _counted(pattern: Pattern, operand: Operand) -> tuple[Dim, Dim] | None:
    """Start and stop of the numbers that were reshaped; None: they are no range."""
    while isinstance(operand, Value) and operand.producer is not None:
        node = operand.producer
        if node.op == "tensor.arange":
            pattern.shared.append(node)
            start, stop = node.attributes["start"], node.attributes["stop"]
            assert isinstance(start, int | ir.Sym)
            assert isinstance(stop, int | ir.Sym)
            return start, stop
        if node.op != "tensor.reshape":
            break
        pattern.shared.append(node)
        operand = node.operands[0]
    return None


def _op(node: Node) -> str:
    return node.op


def _text(side: tuple[Dim, Dim] | None) -> str:
    return "something computed" if side is None else f"{side[0]} … {side[1]}"
