"""Proves a rewrite by executing both sides on random inputs. Knows no pattern."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from arkinfer import ir
from arkinfer.errors import InternalError
from arkinfer.ir.ops.base import Array, Data


class NoMatch(Exception):
    """A pattern began to match and then did not; the text says why."""


LENGTHS = {"T": 3, "S": 2, "R": 2}
"""What symbols are bound to; any other symbol becomes 4."""

TOLERANCE = 1e-6
"""Of the largest magnitude; both sides compute in float64."""


def prove(before: ir.Function, after: ir.Function, weights: Mapping[str, ir.Weight]) -> None:
    """Runs two functions of the same interface on the same numbers.

    Raises:
        NoMatch: they differ, or one of them does not run.
    """
    names = {name for value in before.inputs for name in _symbols(value)}
    lengths = {name: LENGTHS.get(name, 4) for name in names}
    inputs = ir.random_inputs(before, lengths, np.random.default_rng(0), high=3)
    store = ProofWeights(weights)
    try:
        expected = ir.run_function(before, inputs, store, dtype=np.float64)
        found = ir.run_function(after, inputs, store, dtype=np.float64)
    except (InternalError, ValueError, IndexError) as error:
        raise NoMatch(f"both sides could not be executed: {error}") from error
    for name, wanted in expected.items():
        got = found[name]
        if wanted.shape != got.shape:
            raise NoMatch(f"executed, {name} has the shape {got.shape}, not {wanted.shape}")
        error = float(np.abs(wanted - got).max(initial=0))
        if not error <= TOLERANCE * max(float(np.abs(wanted).max(initial=0)), 1e-30):
            raise NoMatch(f"executed on random inputs, both sides differ by {error:.3g}")


def _symbols(value: ir.Value) -> set[str]:
    return {name for d in value.type.shape if isinstance(d, ir.Sym) for name, _ in d.terms}


class ProofWeights:
    """Random leaves, and what rules make of them; the same name gives the same numbers."""

    def __init__(self, weights: Mapping[str, ir.Weight]) -> None:
        self._weights = weights
        self._leaves = ir.RandomWeights()

    def load(self, weight: ir.Weight) -> Data:
        source = weight.source
        if source is None:
            return self._leaves.load(weight)
        inputs = [cast(Array, self.load(self._weights[name])) for name in source.inputs]
        if source.rule == "concat":
            return np.concatenate(inputs)
        if source.rule == "scale":
            by = cast(float, dict(source.attributes)["by"])
            return inputs[0].astype(np.float64) * by
        raise InternalError(f'@{weight.name} comes by the rule "{source.rule}"')


def extract(
    nodes: Sequence[ir.Node], inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]
) -> ir.Function:
    """Some nodes of a function as one of their own: copies, in order."""
    twins = {value: ir.Value(value.type, f"in{i}") for i, value in enumerate(inputs)}
    copies: list[ir.Node] = []
    for node in nodes:
        operands: list[ir.Operand] = []
        for operand in node.operands:
            if isinstance(operand, ir.Value) and operand not in twins:
                raise NoMatch(f"%{operand.name or node.op} comes from outside of the pattern")
            operands.append(twins[operand] if isinstance(operand, ir.Value) else operand)
        results = [ir.Value(value.type) for value in node.results]
        twins |= dict(zip(node.results, results, strict=True))
        copies.append(ir.Node(node.op, operands, dict(node.attributes), results))
    names = [f"out{i}" for i in range(len(outputs))]
    given = [twins[value] for value in inputs]
    return ir.Function("f", given, copies, [twins[value] for value in outputs], names)


def anonymous(function: ir.Function) -> str:
    """The function's text without weight names: equal texts need one proof."""
    names: dict[str, str] = {}
    copies = [
        ir.Node(node.op, [_renamed(o, names) for o in node.operands], node.attributes, node.results)
        for node in function.nodes
    ]
    same = ir.Function(
        function.name, function.inputs, copies, function.outputs, function.output_names
    )
    types = ", ".join(names.values())
    return f"{ir.print_function(same)}\n{types}"


def _renamed(operand: ir.Operand, names: dict[str, str]) -> ir.Operand:
    if isinstance(operand, ir.Value):
        return operand
    names.setdefault(operand.name, f"w{len(names)}: {operand.type}")
    short = names[operand.name].partition(":")[0]
    return ir.Weight(short, operand.type)
