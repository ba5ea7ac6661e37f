"""Removes nodes whose results nobody uses, and weights that nothing needs any more."""

from __future__ import annotations

from dataclasses import dataclass

from arkinfer import ir


@dataclass(frozen=True)
class EliminateDeadCode:
    """No op of the IR has a side effect, so that what is unused is dead."""

    name = "eliminate-dead-code"

    def run(self, module: ir.Module) -> bool:
        changed = False
        for function in module.functions.values():
            changed |= drop_dead_nodes(function)
        return _drop_dead_weights(module) or changed


def drop_dead_nodes(function: ir.Function) -> bool:
    """Removes dead nodes of one function, to a fixed point; whether there were any."""
    live: set[ir.Value] = set(function.outputs)
    kept: list[ir.Node] = []
    for node in reversed(function.nodes):
        if any(value in live for value in node.results):
            live.update(node.values)
            kept.append(node)
    dead = len(kept) < len(function.nodes)
    function.nodes = kept[::-1]
    return dead


def _drop_dead_weights(module: ir.Module) -> bool:
    """Keeps what nodes use, and what that comes from."""
    needed: set[str] = set()
    waiting = [weight.name for node in module.nodes() for weight in node.weights]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            source = module.weights[name].source
            waiting += source.inputs if source else ()
    dead = [name for name in module.weights if name not in needed]
    for name in dead:
        del module.weights[name]
    return bool(dead)
