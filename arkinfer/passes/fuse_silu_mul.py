"""silu(gate) * up becomes `nn.silu_mul`. Knows no model."""

from __future__ import annotations

from dataclasses import dataclass

from arkinfer.ir import Module, Node, Value
from arkinfer.passes.match import Pattern, Uses, need
from arkinfer.passes.rewrite import Rewrite, one_node, rewrite_at


@dataclass(frozen=True)
class FuseSiluMul:
    name = "fuse-silu-mul"

    def run(self, module: Module) -> bool:
        return rewrite_at(module, self.name, ("tensor.silu",), _attempt)


def _attempt(uses: Uses, silu: Node) -> Rewrite:
    pattern = Pattern(uses, silu)
    product = pattern.user(silu.result, "tensor.mul", "the gate does not multiply one value")
    own = set(pattern.own)
    others = [o for o in product.operands if not (isinstance(o, Value) and o.producer in own)]
    need(len(others) == 1, "the gate is multiplied by itself")
    gate, up = silu.operands[0], others[0]
    need(isinstance(up, Value), "the gate multiplies a weight")
    need(up.type == gate.type, f"the gate is {gate.type}, what it multiplies is {up.type}")
    fused = one_node(product, "nn.silu_mul", gate, up)
    return Rewrite(pattern, [fused], {product.result: fused.result}, product)
