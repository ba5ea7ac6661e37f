"""Replacing what patterns matched, each replacement proven. Knows no particular pattern."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from arkinfer import ir
from arkinfer.ir import Builder, Function, Module, Node, Operand, Value, Weight
from arkinfer.passes.match import NoMatch, Pattern, Uses, need
from arkinfer.passes.prove import refutation


@dataclass
class Rewrite:
    """What to put in the place of a match.

    Attributes:
        pattern: the match.
        nodes: what replaces its own nodes.
        results: a value that the match makes -> what replaces it.
        before: the node in whose place the new ones stand.
        inputs: an input of the function -> what replaces it.
    """

    pattern: Pattern
    nodes: list[Node]
    results: dict[Value, Value]
    before: Node
    inputs: dict[Value, Value] = field(default_factory=dict[Value, Value])


Attempt: TypeAlias = "Callable[[Uses, Node], Rewrite | None]"
"""Looks at one node: a rewrite, None (nothing to see here), or NoMatch (almost: the reason)."""


def rewrite_at(module: Module, pass_name: str, ops: Iterable[str], attempt: Attempt) -> bool:
    """Tries every node of these ops; near misses become remarks. True if anything changed.

    Matches of one round must not overlap: of two that do, the first wins.
    """
    wanted, changed = frozenset(ops), False
    for function in module.functions.values():
        round_ = Round(module, function)
        for node in function.nodes:
            if node.op not in wanted:
                continue
            try:
                rewrite = attempt(round_.uses, node)
                if rewrite is not None:
                    round_.add(rewrite)
            except NoMatch as no:
                module.remark(pass_name, node, no.reason)
        changed |= round_.commit()
    return changed


def one_node(like: Node, op: str, *operands: Operand, **attributes: ir.Attribute) -> Node:
    """A new node at the location of another."""
    builder = Builder(ir.infer_types)
    builder.loc = like.loc
    builder.add(op, *operands, **attributes)
    return builder.nodes[0]


def read_quantized(node: Node, form: Weight) -> None:
    """A linear or an embedding reads a quantized form of its matrix from now on."""
    node.operands[1] = form
    node.op = node.op.replace("nn.", "quant.")
    node.attributes = ir.complete_attributes(node.op, node.attributes)


class Round:
    """The rewrites of one function that are found on the same graph and made together."""

    def __init__(self, module: Module, function: Function) -> None:
        self.uses = Uses(function)
        self._module, self._function = module, function
        self._order = {node: index for index, node in enumerate(function.nodes)}
        self._matched: set[Node] = set()
        self._placed: dict[Node, list[Node]] = {}
        self._replaced: dict[Value, Value] = {}

    def add(self, rewrite: Rewrite) -> None:
        """Takes a rewrite, once it is proven.

        Raises:
            NoMatch: others need what it takes away, types differ, or the proof failed.
        """
        pattern = rewrite.pattern
        pattern.need_private(rewrite.results)
        for node in pattern.own:
            need(node not in self._matched, f"{node.op} is part of another match")
        for old, new in rewrite.results.items():
            same = old.type.shape == new.type.shape and old.tensor.dtype == _dtype(new)
            need(same, f"the fused op gives {new.type}, where {old.type} is used")
        self._prove(rewrite)
        self._matched.update(pattern.own)
        for node in rewrite.nodes:
            for weight in node.weights:
                self._module.add_weight(weight)
        self._placed.setdefault(rewrite.before, []).extend(rewrite.nodes)
        self._replaced |= {**rewrite.results, **rewrite.inputs}

    def _prove(self, rewrite: Rewrite) -> None:
        nodes = dict.fromkeys([*rewrite.pattern.own, *rewrite.pattern.shared])
        old = sorted(nodes, key=self._order.__getitem__)
        aliases = {new: value for value, new in rewrite.inputs.items()}
        why = refutation(old, rewrite.nodes, rewrite.results, self._module.weights, aliases)
        need(why is None, why or "")

    def commit(self) -> bool:
        """Makes the rewrites; nodes that nobody uses then are gone."""
        if not self._placed:
            return False
        function = self._function
        nodes: list[Node] = []
        for node in function.nodes:
            nodes += self._placed.get(node, ())
            nodes.append(node)
        function.nodes = nodes
        function.replace_values(self._replaced)
        function.nodes = _without_dead(nodes, function.outputs, self._matched)
        return True


def _dtype(value: Value) -> str:
    return "" if isinstance(value.type, ir.QuantizedType) else value.type.dtype


def _without_dead(nodes: list[Node], outputs: list[Value], doubtful: set[Node]) -> list[Node]:
    """Without those of the doubtful nodes whose results nobody uses."""
    needed = set(outputs)
    kept: list[Node] = []
    for node in reversed(nodes):
        if node in doubtful and not any(value in needed for value in node.results):
            continue
        needed.update(node.values)
        kept.append(node)
    return kept[::-1]
