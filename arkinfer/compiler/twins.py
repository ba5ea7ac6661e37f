"""Which values of a compiled module are which of the module as it was traced.

By the weights that linears read and by torch paths, so that no pass has to keep a record. Knows
no numbers; what it does not recognise, it leaves out.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from arkinfer import ir
from arkinfer.compiler.effective import places

LINEARS = ("nn.linear", "quant.linear")
EMBEDDINGS = ("nn.embedding", "quant.embedding")


@dataclass(frozen=True)
class Twin:
    """What a value is.

    Attributes:
        values: of the traced function; side by side they are the value, up to a factor.
        same_length: whether that factor is 1: passes may rescale a residual stream and what a
            norm gives, but not what a linear gives.
    """

    values: tuple[ir.Value, ...]
    same_length: bool = False


def twins(module: ir.Module, traced: ir.Function) -> dict[str, Twin]:
    """By the names of the module's text, in order of execution."""
    step = module.functions["step"]
    names = ir.value_names(step)
    old = _Traced(traced)
    sums: dict[str, int] = defaultdict(int)
    last = {node.loc: node for node in step.nodes if node.loc}
    found: dict[str, Twin] = {}
    for node in step.nodes:
        twin = None
        if node.op in LINEARS:
            twin = old.linear(node, module)
        elif node.op in EMBEDDINGS:
            twin = old.embedding
        elif node.op == "nn.add":
            twin = old.sum(node.loc, sums[node.loc])
            sums[node.loc] += 1
        elif node.op == "attn.dense" or last.get(node.loc) is node:
            twin = old.outputs.get(node.loc)
        if twin is not None and _width(node.results[0]) == sum(map(_width, twin.values)):
            found[names[node.results[0]]] = twin
    return found


class _Traced:
    def __init__(self, function: ir.Function) -> None:
        self._linears = {
            node.weights[0].name: node.result
            for node in function.nodes
            if node.op == "nn.linear" and node.weights
        }
        tables = [node.result for node in function.nodes if node.op == "nn.embedding"]
        self.embedding = Twin((tables[0],)) if len(tables) == 1 else None
        last = {node.loc: node for node in function.nodes if node.loc}
        self.outputs = {loc: Twin((node.results[0],)) for loc, node in last.items()}
        self._sums: dict[str, list[ir.Value]] = defaultdict(list)
        for node in function.nodes:
            if node.op == "tensor.add" and len(node.result.type.shape) == 2:
                self._sums[node.loc].append(node.result)

    def linear(self, node: ir.Node, module: ir.Module) -> Twin | None:
        """By the leaves that its matrix is made of, in order of their rows."""
        leaves = places(node.weights, module.weights)
        ordered = sorted(leaves, key=lambda name: leaves[name].start)
        if not ordered or not all(name in self._linears for name in ordered):
            return None
        return Twin(tuple(self._linears[name] for name in ordered), same_length=True)

    def sum(self, loc: str, number: int) -> Twin | None:
        sums = self._sums[loc]
        return Twin((sums[number],)) if number < len(sums) else None


def _width(value: ir.Value) -> int:
    """Numbers of one row; -1: of no fixed size."""
    product = 1
    for size in value.type.shape[1:]:
        if not isinstance(size, int):
            return -1
        product *= size
    return product
