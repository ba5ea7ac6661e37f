"""Linears of one input whose results are all split into heads become one linear and slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from arkinfer import ir
from arkinfer.ir import Derived, TensorType, Weight
from arkinfer.passes.fusion import Fusion, Rewrite, Scope, common_loc
from arkinfer.passes.proof import NoMatch


@dataclass(frozen=True)
class FuseQkv(Fusion):
    """Anchors on the last of the linears; the weights are stacked in their order.

    Options:
        name_of_weight: the stacked weight's, beside the weights that it comes from.
    """

    name = "fuse-qkv"
    name_of_weight: str = "qkv_proj.weight"

    def find(self, node: ir.Node, scope: Scope) -> Rewrite | None:
        if _heads(node, scope) is None:
            return None
        group = [n for n in scope.users[node.values[0]] if _heads(n, scope) is not None]
        if len(group) < 2 or group[-1] is not node:
            return None
        weights = [linear.weights[0] for linear in group]
        views = [view for linear in group if (view := _heads(linear, scope)) is not None]
        size = views[0].result.type.shape[-1]
        if any(view.result.type.shape[-1] != size for view in views):
            raise NoMatch("the heads are of different sizes")
        if len({w.type.dtype for w in weights if isinstance(w.type, TensorType)}) != 1:
            raise NoMatch("the weights are of different dtypes")
        joined = _joined(weights, scope.module, self.name_of_weight)
        heads = [_fixed(view.result.type.shape[1]) for view in views]
        tokens = views[0].result.type.shape[0]

        def build(b: ir.Builder, inputs: Sequence[ir.Value]) -> list[ir.Value]:
            weight = scope.module.add_weight(joined)
            packed = b.add("nn.linear", inputs[0], weight)
            packed = b.add("tensor.reshape", packed, shape=(tokens, sum(heads), size))
            starts = [sum(heads[:i]) for i in range(len(heads))]
            return [
                b.add("tensor.slice", packed, axis=1, start=start, stop=start + count)
                for start, count in zip(starts, heads, strict=True)
            ]

        nodes = scope.sorted([*group, *views])
        results = [view.result for view in views]
        return Rewrite(nodes, [node.values[0]], results, build, loc=common_loc(nodes))


def _heads(node: ir.Node, scope: Scope) -> ir.Node | None:
    """The view as [tokens, heads, head_dim] that is a linear's only user."""
    if node.op != "nn.linear" or not isinstance(node.operands[1], Weight):
        return None
    view = scope.single_user(node.result)
    if view is None or view.op != "tensor.reshape" or len(view.result.type.shape) != 3:
        return None
    same_tokens = view.result.type.shape[0] == node.result.type.shape[0]
    return view if same_tokens and len(node.result.type.shape) == 2 else None


def _fixed(size: ir.Dim) -> int:
    if not isinstance(size, int):
        raise NoMatch("the number of heads is symbolic")
    return size


def _joined(weights: Sequence[Weight], module: ir.Module, name: str) -> Weight:
    """The symbol of the stacked matrix; its name stands beside the others'."""
    rows = sum(_fixed(weight.type.shape[0]) for weight in weights)
    first = weights[0].type
    assert isinstance(first, TensorType)
    kind = TensorType(first.dtype, (rows, first.shape[1]))
    source = Derived("concat", tuple(weight.name for weight in weights))
    folders = [weight.name.split(".")[:-2] for weight in weights]
    shared = folders[0] if all(f == folders[0] for f in folders) else []
    full, tries = ".".join([*shared, name]), 1
    while module.weights.get(full, Weight(full, kind, source)) != Weight(full, kind, source):
        tries += 1
        full = ".".join([*shared, f"{tries}.{name}"])
    return Weight(full, kind, source)
