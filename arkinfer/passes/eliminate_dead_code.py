"""Removes nodes that no result needs, and weights that no node does. Knows no op.

Weights stay in the order of their first use, what they derive from before them.
"""

from __future__ import annotations

from dataclasses import dataclass

from arkinfer.ir import Function, Module, Weight


@dataclass(frozen=True)
class EliminateDeadCode:
    name = "eliminate-dead-code"

    def run(self, module: Module) -> bool:
        before = list(module.weights), [len(f.nodes) for f in module.functions.values()]
        for function in module.functions.values():
            _sweep(function)
        used: dict[str, Weight] = {}
        for node in module.nodes():
            for weight in node.weights:
                _keep(module, weight, used)
        module.weights = used
        return before != (list(used), [len(f.nodes) for f in module.functions.values()])


def _sweep(function: Function) -> None:
    needed = set(function.outputs)
    kept = []
    for node in reversed(function.nodes):
        if any(value in needed for value in node.results):
            needed.update(node.values)
            kept.append(node)
    function.nodes = kept[::-1]


def _keep(module: Module, weight: Weight, used: dict[str, Weight]) -> None:
    if weight.name in used:
        return
    for name in weight.source.inputs if weight.source else ():
        _keep(module, module.weights[name], used)
    used[weight.name] = weight
