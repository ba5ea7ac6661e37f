"""Turns float caches into int8 ones, with scales per token or per channel. Knows no calibration."""

from __future__ import annotations

from dataclasses import dataclass

from arkinfer.errors import UsageError, nearest
from arkinfer.ir import CacheType, Function, Module, Node, Operand, TensorType, Value, Weight
from arkinfer.passes.caches import float_caches, retype

TOKEN, CHANNEL = "token", "channel"
"""What has a scale: each token's row of each head, found when it is appended and kept beside it;
or each channel of each head, from calibration."""

PREFIX = "cache_scales."
"""Scales per channel are leaf symbols `cache_scales.k0`, f32 [kv heads, head_dim]."""

SUFFIX = ".scale"
"""Scales per token are caches `k0.scale`, f32 [S, kv heads, 1], behind those that they scale."""


@dataclass(frozen=True)
class QuantizeCache:
    """All float caches of every function, or none.

    Raises:
        UnsupportedError: something else than appends and dense attention uses a cache.
    """

    scales: str = CHANNEL
    name = "quantize-cache"

    def run(self, module: Module) -> bool:
        if self.scales not in (TOKEN, CHANNEL):
            known = nearest(self.scales, (TOKEN, CHANNEL))
            raise UsageError(f'A cache has no scales per "{self.scales}"', "", known)
        changed = False
        for function in module.functions.values():
            caches = float_caches(function, "int8")
            scales = {
                append.results[0]: self._quantize(module, function, past, append)
                for past, append in caches.items()
            }
            for node in function.nodes:
                if node.op == "attn.dense" and node.values[1] in scales:
                    node.operands += [scales[cache] for cache in node.values[1:]]
            changed |= bool(caches)
        return changed

    def _quantize(self, module: Module, function: Function, past: Value, append: Node) -> Operand:
        """Retypes a cache before and after its append; what attention reads it with."""
        retype(past, append, "i8")
        if self.scales == TOKEN:
            return _token_scales(function, past, append)
        scale = module.add_weight(
            Weight(f"{PREFIX}{past.name}", TensorType("f32", past.type.shape[1:]))
        )
        append.operands.append(scale)
        return scale


def _token_scales(function: Function, past: Value, append: Node) -> Value:
    """Gives a cache one more for its scales, as input, operand, result and output."""
    codes, name = append.result, f"{past.name}{SUFFIX}"
    old = Value(CacheType("f32", (*past.type.shape[:2], 1)), name)
    new = Value(CacheType("f32", (*codes.type.shape[:2], 1)), producer=append)
    function.inputs.insert(function.inputs.index(past) + 1, old)
    append.operands.append(old)
    append.results.append(new)
    if codes in function.outputs:
        place = function.outputs.index(codes) + 1
        function.outputs.insert(place, new)
        function.output_names.insert(place, name)
    return new
