"""Concatenation with the past and masked attention become cache.append and attn.dense.

The past keys and values, inputs of the function, turn from tensors into caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from arkinfer import ir
from arkinfer.passes.fusion import Fusion, Rewrite, Scope, common_loc, producer
from arkinfer.passes.proof import NoMatch


@dataclass(frozen=True)
class FuseAttention(Fusion):
    """Anchors on the transpose behind a tensor.sdpa."""

    name = "fuse-attention"

    def find(self, node: ir.Node, scope: Scope) -> Rewrite | None:
        sdpa = node.values[0].producer if node.values else None
        if node.op != "tensor.transpose" or sdpa is None or sdpa.op != "tensor.sdpa":
            return None
        turned = [_swapped(v, what) for v, what in zip(sdpa.values[:3], "qkv", strict=True)]
        if node.attributes["axes"] != (1, 0, 2):
            raise NoMatch(f"the result is transposed by {node.attributes['axes']}, not (1, 0, 2)")
        q = turned[0].values[0]
        joins = [_appended(turned[i].values[0], what, scope) for i, what in ((1, "k"), (2, "v"))]
        mask = _mask(sdpa.values[3])
        past = [join.values[0] for join in joins]
        fresh = [join.values[1] for join in joins]
        own = scope.sorted([*turned, *joins, sdpa, node])
        scale = sdpa.attributes["scale"]

        def build(b: ir.Builder, inputs: Sequence[ir.Value]) -> list[ir.Value]:
            q, k_cache, k, v_cache, v = inputs
            k_all = b.add("cache.append", k_cache, k)
            v_all = b.add("cache.append", v_cache, v)
            return [k_all, v_all, b.add("attn.dense", q, k_all, v_all, scale=scale)]

        return Rewrite(
            scope.sorted([*own, *mask]),
            [q, past[0], fresh[0], past[1], fresh[1]],
            [joins[0].result, joins[1].result, node.result],
            build,
            own=own,
            cache_inputs=(1, 3),
            loc=common_loc(own),
        )


def _swapped(value: ir.Value, what: str) -> ir.Node:
    node = producer(value, "tensor.transpose", f"{what} of the attention")
    if node.attributes["axes"] != (1, 0, 2):
        raise NoMatch(f"{what} is transposed by {node.attributes['axes']}, not (1, 0, 2)")
    return node


def _appended(value: ir.Value, what: str, scope: Scope) -> ir.Node:
    """The concatenation of an input of the function with new rows, itself a result of it."""
    node = producer(value, "tensor.concat", f"{what} of the attention")
    if node.attributes["axis"] != 0 or len(node.values) != 2:
        raise NoMatch(f"{what} is not the past with new rows behind it")
    past = node.values[0]
    if past not in scope.function.inputs:
        raise NoMatch(f"the first part of {what} is not an input of the function")
    if len(scope.users[past]) != 1:
        raise NoMatch(f"the past of {what} is also used elsewhere")
    if node.result not in scope.function.outputs:
        raise NoMatch(f"{what} with its new rows is not a result of the function")
    return node


def _mask(mask: ir.Value) -> list[ir.Node]:
    """Everything that the mask is computed from; it may depend on lengths only."""
    nodes: dict[int, ir.Node] = {}
    waiting = [mask]
    while waiting:
        value = waiting.pop()
        if value.producer is None:
            raise NoMatch(f"the mask depends on the input %{value.name}")
        nodes[id(value.producer)] = value.producer
        waiting += value.producer.values
        if value.producer.weights:
            raise NoMatch(f"the mask depends on the weight @{value.producer.weights[0].name}")
    return list(nodes.values())
