"""h' = h / r makes every sum of the residual stream plain: x + y instead of x + r * y. Exact.

RMSNorm does not see the scale of its input once eps is divided by r^2, and the embedding starts
the stream at 1 / r of its scale. For backends whose fused sum takes no scale. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from arkinfer.ir import Function, Module, Node, Value
from arkinfer.passes.match import NoMatch, need
from arkinfer.passes.prove import refutation
from arkinfer.passes.rewrite import one_node

EMBEDDINGS = ("nn.embedding", "quant.embedding")


@dataclass(frozen=True)
class RescaleResidual:
    name = "rescale-residual"

    def run(self, module: Module) -> bool:
        changed = False
        for function in module.functions.values():
            for node in list(function.nodes):
                if node.op not in EMBEDDINGS:
                    continue
                try:
                    changed |= _rescale(module, function, node)
                except NoMatch as no:
                    module.remark(self.name, node, no.reason)
        return changed


@dataclass
class _Stream:
    """The nodes along which a residual stream flows."""

    embedding: Node
    sums: list[Node] = field(default_factory=list[Node])
    takes: list[Node] = field(default_factory=list[Node])
    norms: list[Node] = field(default_factory=list[Node])


def _rescale(module: Module, function: Function, embedding: Node) -> bool:
    stream = _follow(function, embedding)
    scales = {cast(float, node.attributes["scale"]) for node in stream.sums}
    if scales <= {1.0}:
        return False  # nothing to do
    need(len(scales) == 1, f"its sums have different scales: {sorted(scales)}")
    (r,) = scales
    need(r > 0, f"its sums have the scale {r}, and only positive ones leave norms alone")
    inside = {embedding, *stream.sums, *stream.takes, *stream.norms}
    old = [node for node in function.nodes if node in inside]
    new, renamed = _rewritten(old, r)
    results = {node.result: renamed[node.result] for node in stream.norms}
    why = refutation(old, new, results, module.weights)
    need(why is None, why or "")
    swapped = dict(zip(old, new, strict=True))
    function.nodes = [swapped.get(node, node) for node in function.nodes]
    norms = {node.result for node in stream.norms}
    stays = {value: fresh for value, fresh in renamed.items() if value in norms}
    function.replace_values(stays)
    function.replace_values({v: f for v, f in renamed.items() if v not in norms}, factor=1 / r)
    return True


def _rewritten(old: Sequence[Node], r: float) -> tuple[list[Node], dict[Value, Value]]:
    """Copies of the stream's nodes with the new constants, and their results by the old ones."""
    renamed: dict[Value, Value] = {}
    new: list[Node] = []
    for node in old:
        changed = dict(node.attributes)
        if node.op in EMBEDDINGS:
            changed["scale"] = cast(float, changed["scale"]) / r
        elif node.op == "nn.add":
            changed["scale"] = 1.0
        elif node.op == "nn.rms_norm":
            changed["eps"] = cast(float, changed["eps"]) / (r * r)
        operands = [renamed.get(o, o) if isinstance(o, Value) else o for o in node.operands]
        new.append(one_node(node, node.op, *operands, **changed))
        renamed[node.result] = new[-1].result
    return new, renamed


def _follow(function: Function, embedding: Node) -> _Stream:
    """Where the stream goes. Anything but sums, rows of it and norms sees its scale: NoMatch."""
    stream, flowing = _Stream(embedding), {embedding.result}
    for node in function.nodes:
        inside = [index for index, o in enumerate(node.operands) if o in flowing]
        if not inside:
            continue
        where = f"{node.op}{f' at {node.loc}' if node.loc else ''}"
        need(inside == [0], f"{where} reads the residual stream as a branch")
        if node.op == "nn.add":
            stream.sums.append(node)
            flowing.add(node.result)
        elif node.op == "tensor.take":
            stream.takes.append(node)
            flowing.add(node.result)
        elif node.op == "nn.rms_norm":
            stream.norms.append(node)
        else:
            raise NoMatch(f"{where} reads the residual stream, and would see its scale")
    left = [n for n, v in zip(function.output_names, function.outputs, strict=True) if v in flowing]
    need(not left, f"the residual stream leaves the function as {', '.join(left)}")
    return stream
