"""Turns float caches into int8 ones with a static scale per channel."""

from __future__ import annotations

from dataclasses import dataclass

from arkinfer import ir
from arkinfer.ir import CacheType, TensorType, Weight

PREFIX = "cache_scales."
"""Scales are leaf symbols `cache_scales.k0`, f32 [kv heads, head_dim], from calibration."""


@dataclass(frozen=True)
class QuantizeCache:
    """All caches of a function, or none: a cache must be used by appends and attention only."""

    name = "quantize-cache"

    def run(self, module: ir.Module) -> bool:
        changed = False
        for function in module.functions.values():
            for node in function.nodes:
                if node.op == "attn.dense" and len(node.operands) == 3:
                    _quantize(node, module)
                    changed = True
        return changed


def _quantize(node: ir.Node, module: ir.Module) -> None:
    """The two caches that an attention reads, their appends, and itself."""
    for value in node.values[1:3]:
        append = value.producer
        assert append is not None
        past = append.values[0]
        old = past.type
        assert isinstance(old, CacheType)
        name = f"{PREFIX}{past.name}"
        scale = module.add_weight(Weight(name, TensorType("f32", old.shape[1:])))
        past.type = CacheType("i8", old.shape)
        value.type = CacheType("i8", value.type.shape)
        append.operands.append(scale)
        node.operands.append(scale)
