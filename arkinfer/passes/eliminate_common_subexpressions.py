"""What is computed twice from the same operands is computed once. Knows no op."""

from __future__ import annotations

from dataclasses import dataclass

from arkinfer.ir import Function, Module, Value, Weight


@dataclass(frozen=True)
class EliminateCommonSubexpressions:
    name = "eliminate-common-subexpressions"

    def run(self, module: Module) -> bool:
        return any([_merge(function) for function in module.functions.values()])


def _merge(function: Function) -> bool:
    """Ops have no side effects, so the first of equal nodes stands for all."""
    first: dict[tuple[object, ...], list[Value]] = {}
    same: dict[Value, Value] = {}
    kept = len(function.nodes)
    for node in list(function.nodes):
        node.operands = [o if isinstance(o, Weight) else same.get(o, o) for o in node.operands]
        operands = tuple(o.name if isinstance(o, Weight) else o for o in node.operands)
        key = (node.op, operands, repr(sorted(node.attributes.items())))
        known = first.setdefault(key, node.results)
        if known is not node.results:
            same.update(zip(node.results, known, strict=True))
    merged = {value for value in same}
    function.nodes = [n for n in function.nodes if not merged.intersection(n.results)]
    function.replace_values(same)
    return len(function.nodes) != kept
