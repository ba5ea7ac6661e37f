"""Turns float caches into int8 ones with a static scale per channel. Knows no calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from arkinfer import ir
from arkinfer.errors import UnsupportedError
from arkinfer.ir import CacheType, TensorType, Value, Weight

PREFIX = "cache_scales."
"""Scales are leaf symbols `cache_scales.k0`, f32 [kv heads, head_dim], from calibration."""


@dataclass(frozen=True)
class QuantizeCache:
    """All float caches of every function, or none.

    Raises:
        UnsupportedError: something else than appends and dense attention uses a cache.
    """

    name = "quantize-cache"

    def run(self, module: ir.Module) -> bool:
        changed = False
        for function in module.functions.values():
            users = function.users()
            caches = [v for v in function.inputs if _is_float_cache(v) and users[v]]
            appends = {past: _append(past, users) for past in caches}
            scales = {a.result: _quantize(module, past, a) for past, a in appends.items()}
            for node in function.nodes:
                if node.op == "attn.dense" and node.values[1] in scales:
                    node.operands += [scales[cache] for cache in node.values[1:]]
            changed |= bool(caches)
        return changed


def _is_float_cache(value: Value) -> bool:
    return isinstance(value.type, CacheType) and value.type.dtype != "i8"


def _append(past: Value, users: Mapping[Value, list[ir.Node]]) -> ir.Node:
    """The one node that appends to a cache; what it returns goes to attention alone."""
    (append,) = users[past]  # the verifier allows no more
    if append.op != "cache.append":
        raise _misfit(past, append)
    for node in users[append.result]:
        if node.op != "attn.dense":
            raise _misfit(past, node)
    return append


def _misfit(past: Value, node: ir.Node) -> UnsupportedError:
    return UnsupportedError(
        f"The cache {past.name} cannot be kept in int8",
        f"{node.op} at {node.loc or 'an unnamed place'} reads it, which takes floats only",
        "Keep the cache in fp32",
    )


def _quantize(module: ir.Module, past: Value, append: ir.Node) -> Weight:
    """Retypes a cache before and after its append; returns its scales."""
    old = past.type
    assert isinstance(old, CacheType)
    scale = module.add_weight(Weight(f"{PREFIX}{past.name}", TensorType("f32", old.shape[1:])))
    past.type = CacheType("i8", old.shape)
    append.result.type = CacheType("i8", append.result.type.shape)
    append.operands.append(scale)
    return scale
