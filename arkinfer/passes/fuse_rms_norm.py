"""x * rsqrt(mean(x * x) + eps) * weight becomes `nn.rms_norm`. Knows no model."""

from __future__ import annotations

from dataclasses import dataclass

from arkinfer.ir import Module, Node, Operand, TensorType, Value, Weight
from arkinfer.passes.match import Pattern, Uses, last_axis, need
from arkinfer.passes.rewrite import Rewrite, one_node, rewrite_at


@dataclass(frozen=True)
class FuseRmsNorm:
    name = "fuse-rms-norm"

    def run(self, module: Module) -> bool:
        return rewrite_at(module, self.name, ("tensor.rsqrt",), _attempt)


def _attempt(uses: Uses, root: Node) -> Rewrite:
    pattern = Pattern(uses, root)
    shift = pattern.producer(root.operands[0], "tensor.shift", "no eps is added under the root")
    mean = pattern.producer(shift.operands[0], "tensor.mean", "eps is not added to a mean")
    square = pattern.producer(mean.operands[0], "tensor.mul", "the mean is not that of a square")
    x = square.operands[0]
    need(x is square.operands[1] and isinstance(x, Value), "the mean is not that of a square")
    axis = mean.attributes["axis"]
    need(last_axis(x, axis), f"the mean is over axis {axis}, not the last")
    scaled = pattern.user(root.result, "tensor.mul", "the root does not scale one value")
    need(any(o is x for o in scaled.operands), "what is scaled is not what the mean is of")
    weighted = pattern.user(scaled.result, "tensor.mul", "what is normalized gets no weight")
    weight = _weight(weighted)
    need(weight is not None, "what is normalized is not multiplied by a weight of one dim")
    assert weight is not None
    fused = one_node(weighted, "nn.rms_norm", x, weight, eps=shift.attributes["by"])
    return Rewrite(pattern, [fused], {weighted.result: fused.result}, weighted)


def _weight(node: Node) -> Operand | None:
    for operand in node.operands:
        kind = operand.type
        if isinstance(operand, Weight) and isinstance(kind, TensorType) and len(kind.shape) == 1:
            return operand
    return None
