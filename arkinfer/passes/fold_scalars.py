"""The family's scalars become attributes: of the embedding, of residual additions; the logit
divisor goes into the final norm's weight. Quantized scales and tied matrices are never touched.
"""

from __future__ import annotations

from dataclasses import dataclass

from arkinfer import ir
from arkinfer.ir import Derived, TensorType, Weight
from arkinfer.passes.eliminate_dead_code import drop_dead_nodes
from arkinfer.passes.fusion import Scope


@dataclass(frozen=True)
class FoldScalars:
    """Runs after the fusions of norms and RoPE, whose own sums and products must stay.

    tensor.scale(nn.embedding) -> its `scale`; tensor.add(x, tensor.scale(y)) -> nn.add with
    `scale`, and any other sum of equal types -> nn.add; tensor.scale(nn.rms_norm) -> a scaled
    copy of the norm's weight, in float32.
    """

    name = "fold-scalars"

    def run(self, module: ir.Module) -> bool:
        changed = False
        for function in module.functions.values():
            scope = Scope(module, function)
            for node in list(function.nodes):
                if node.op == "tensor.scale":
                    changed |= self._scale(node, scope)
                elif node.op == "tensor.add":
                    changed |= _add(node, scope)
            drop_dead_nodes(function)
        return changed

    def _scale(self, node: ir.Node, scope: Scope) -> bool:
        by, inner = node.attributes["by"], node.values[0].producer
        assert isinstance(by, float | int)
        if by == 1:
            scope.function.replace_value(node.result, node.values[0])
            scope.refresh()
            return True
        if inner is None or inner.op not in ("nn.embedding", "nn.rms_norm"):
            return False
        if scope.single_user(inner.result) is not node:
            scope.module.remark(self.name, node, f"what it scales, {inner.op}, has other users")
            return False
        if inner.op == "nn.embedding":
            scale = inner.attributes.get("scale", 1.0)
            assert isinstance(scale, float | int)
            inner.attributes["scale"] = scale * by
        else:
            inner.operands[1] = _scaled(inner.weights[0], float(by), scope.module)
        scope.function.replace_value(node.result, inner.result)
        scope.refresh()
        return True


def _scaled(weight: Weight, by: float, module: ir.Module) -> Weight:
    kind = TensorType("f32", weight.type.shape)
    source = Derived("scale", (weight.name,), (("by", by),))
    return module.add_weight(Weight(f"{weight.name}.scaled", kind, source))


def _add(node: ir.Node, scope: Scope) -> bool:
    """x + scale * y as nn.add; the scaled operand is the branch, else the second one."""
    if len(node.values) != 2 or node.values[0].type != node.values[1].type:
        return False
    residual, branch = node.values
    if _is_scale(residual, scope) and not _is_scale(branch, scope):
        residual, branch = branch, residual
    scale = 1.0
    if _is_scale(branch, scope) and branch.producer is not None:
        by = branch.producer.attributes["by"]
        assert isinstance(by, float | int)
        scale, branch = float(by), branch.producer.values[0]
    node.op, node.operands, node.attributes = "nn.add", [residual, branch], {"scale": scale}
    scope.refresh()
    return True


def _is_scale(value: ir.Value, scope: Scope) -> bool:
    node = value.producer
    return node is not None and node.op == "tensor.scale" and scope.single_user(value) is not None
