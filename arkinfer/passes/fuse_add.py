"""Sums of two values of one shape become `nn.add`, the residual first. Knows no model.

Run it after the fusions that contain sums. Scales fold into it by fold-scalars.
"""

from __future__ import annotations

from dataclasses import dataclass

from arkinfer.ir import Module, Node, Value
from arkinfer.passes.match import Pattern, Uses, need
from arkinfer.passes.rewrite import Rewrite, one_node, rewrite_at


@dataclass(frozen=True)
class FuseAdd:
    name = "fuse-add"

    def run(self, module: Module) -> bool:
        return rewrite_at(module, self.name, ("tensor.add",), _attempt)


def _attempt(uses: Uses, total: Node) -> Rewrite:
    a, b = total.operands
    need(isinstance(a, Value) and isinstance(b, Value), "it adds a weight")
    need(a.type == b.type, f"it adds {a.type} and {b.type}")
    assert isinstance(a, Value)
    assert isinstance(b, Value)
    if _is_branch(uses, a, total) and not _is_branch(uses, b, total):
        a, b = b, a
    fused = one_node(total, "nn.add", a, b, scale=1.0)
    return Rewrite(Pattern(uses, total), [fused], {total.result: fused.result}, total)


def _is_branch(uses: Uses, value: Value, total: Node) -> bool:
    """A branch ends in the sum; the residual stream is read by others, too."""
    return value.producer is not None and uses.only(value) is total
