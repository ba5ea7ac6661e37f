"""weight * (x * rsqrt(mean(x * x) + eps)) becomes nn.rms_norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from arkinfer import ir
from arkinfer.passes.fusion import Fusion, Rewrite, Scope, common_loc, producer
from arkinfer.passes.proof import NoMatch


@dataclass(frozen=True)
class FuseRmsNorm(Fusion):
    """Anchors on the product of a vector weight with a product by an rsqrt."""

    name = "fuse-rms-norm"

    def find(self, node: ir.Node, scope: Scope) -> Rewrite | None:
        if node.op != "tensor.mul" or len(node.weights) != 1 or len(node.values) != 1:
            return None
        (weight,), (normed,) = node.weights, node.values
        scaled = normed.producer
        if scaled is None or scaled.op != "tensor.mul":
            return None
        x, rsqrt = _x_and_rsqrt(scaled)
        if rsqrt is None:
            return None
        shift = producer(rsqrt.operands[0], "tensor.shift", "what rsqrt is taken of")
        mean = producer(shift.operands[0], "tensor.mean", "what eps is added to")
        square = producer(mean.operands[0], "tensor.mul", "what the mean is taken of")
        if mean.attributes["axis"] not in (-1, len(x.type.shape) - 1):
            raise NoMatch(f"the mean is over axis {mean.attributes['axis']}, not over the last")
        if square.operands != [x, x]:
            raise NoMatch("the mean is not of the square of what is normalized")
        if weight.type.shape != x.type.shape[-1:]:
            raise NoMatch(f"the weight is {weight.type}, what is normalized {x.type}")
        nodes = scope.sorted([square, mean, shift, rsqrt, scaled, node])

        def build(b: ir.Builder, inputs: Sequence[ir.Value]) -> list[ir.Value]:
            return [b.add("nn.rms_norm", inputs[0], weight, eps=shift.attributes["by"])]

        return Rewrite(nodes, [x], [node.result], build, loc=common_loc(nodes))


def _x_and_rsqrt(scaled: ir.Node) -> tuple[ir.Value, ir.Node | None]:
    """The two factors of x * rsqrt(…), in either order."""
    if len(scaled.values) == 2:
        for x, other in (scaled.values, scaled.values[::-1]):
            if other.producer is not None and other.producer.op == "tensor.rsqrt":
                return x, other.producer
    return scaled.values[0] if scaled.values else scaled.result, None
