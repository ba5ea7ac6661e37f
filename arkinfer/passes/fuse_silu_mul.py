"""silu(gate) * up becomes nn.silu_mul."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from arkinfer import ir
from arkinfer.passes.fusion import Fusion, Rewrite, Scope, common_loc
from arkinfer.passes.proof import NoMatch


@dataclass(frozen=True)
class FuseSiluMul(Fusion):
    """Anchors on a product with a silu, in either order."""

    name = "fuse-silu-mul"

    def find(self, node: ir.Node, scope: Scope) -> Rewrite | None:
        if node.op != "tensor.mul" or len(node.values) != 2:
            return None
        pairs = [node.values, node.values[::-1]]
        found = [(a.producer, b) for a, b in pairs if a.producer and a.producer.op == "tensor.silu"]
        if not found:
            return None
        silu, up = found[0]
        gate = silu.values[0]
        if gate.type != up.type:
            raise NoMatch(f"the gate is {gate.type}, what it is multiplied with {up.type}")
        inputs = [gate] if gate is up else [gate, up]

        def build(b: ir.Builder, inputs: Sequence[ir.Value]) -> list[ir.Value]:
            return [b.add("nn.silu_mul", inputs[0], inputs[-1])]

        nodes = scope.sorted([silu, node])
        return Rewrite(nodes, inputs, [node.result], build, loc=common_loc(nodes))
