"""A traced step, layer by layer: each is run once for several streams that differ in weights.

A layer is what the torch modules `….layers.N` computed. Knows no backend and no quantization.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from arkinfer import ir
from arkinfer.errors import InternalError
from arkinfer.ir import load_wide, run_op

Array: TypeAlias = npt.NDArray[Any]
Environment: TypeAlias = "dict[ir.Value, Any]"

_LAYER = re.compile(r"(.*\blayers\.\d+)(\..*)?")


@dataclass(frozen=True)
class Part:
    """Nodes that belong together, in order of execution.

    Attributes:
        path: the torch module of the layer; "" for what comes before and after the layers.
        nodes: all of them.
        source: the residual stream as the part reads it; None: it makes it.
        result: the residual stream as the part leaves it.
    """

    path: str
    nodes: tuple[ir.Node, ...]
    source: ir.Value | None
    result: ir.Value


@dataclass(frozen=True)
class Layered:
    """A step in parts.

    Attributes:
        inputs: of the function.
        before: makes the residual stream, and what all layers share.
        layers: in order.
        after: from the residual stream to what the head multiplies.
        head: the matrix of the head.
    """

    inputs: tuple[ir.Value, ...]
    before: Part
    layers: tuple[Part, ...]
    after: Part
    head: ir.Weight


@dataclass
class Stream:
    """One way to compute a step: where its weights come from, and what it has computed.

    Attributes:
        weights: which of the stores it reads, by number.
        values: what is known of the values.
    """

    weights: int
    values: Environment

    def fork(self, weights: int) -> Stream:
        """The same values, to go on with other weights."""
        return Stream(weights, dict(self.values))


def layered(traced: ir.Module) -> Layered:
    """The parts of a module as `frontend.trace` gives it.

    Raises:
        InternalError: it has no layers, or its logits do not come from a linear.
    """
    step = traced.functions["step"]
    logits = step.outputs[step.output_names.index("logits")]
    head = logits.producer
    if head is None or head.op != "nn.linear" or not head.weights:
        raise InternalError("The logits do not come from a linear")
    places = [_LAYER.fullmatch(node.loc) for node in step.nodes]
    numbered = [index for index, match in enumerate(places) if match]
    if not numbered:
        raise InternalError("The traced module has no layers")
    first, last = numbered[0], numbered[-1]
    paths = [match[1] if match else "" for match in places]
    residual = _residual_values(step)
    groups: list[tuple[str, list[ir.Node]]] = []
    for index in range(first, last + 1):
        path = paths[index] or groups[-1][0]
        if not groups or groups[-1][0] != path:
            groups.append((path, []))
        groups[-1][1].append(step.nodes[index])
    layers = _chained(groups, residual)
    entry = cast(ir.Value, layers[0].source)
    before = Part("", tuple(step.nodes[:first]), None, entry)
    rest = tuple(node for node in step.nodes[last + 1 :] if node is not head)
    after = Part("", rest, layers[-1].result, head.values[0])
    return Layered(tuple(step.inputs), before, tuple(layers), after, head.weights[0])


def _residual_values(step: ir.Function) -> set[ir.Value]:
    """Everything that depends on an embedding."""
    found: set[ir.Value] = set()
    for node in step.nodes:
        if node.op == "nn.embedding" or any(value in found for value in node.values):
            found.update(node.results)
    return found


def _chained(groups: Sequence[tuple[str, list[ir.Node]]], residual: set[ir.Value]) -> list[Part]:
    """The layers; each reads one value that depends on the tokens, and leaves its last one."""
    parts: list[Part] = []
    for path, nodes in groups:
        made = {value for node in nodes for value in node.results}
        read = {value for node in nodes for value in node.values} - made
        sources = [value for value in read if value in residual]
        if len(sources) != 1:
            raise InternalError(f"{path} reads {len(sources)} values of the layers before it")
        parts.append(Part(path, tuple(nodes), sources[0], nodes[-1].results[0]))
    return parts


def run(
    part: Part,
    streams: Sequence[Stream],
    stores: Sequence[ir.WeightStore],
    symbols: Mapping[str, int],
    on_node: Callable[[ir.Node], None] = lambda node: None,
) -> None:
    """Computes a part for every stream; each weight is loaded once a store.

    A layer leaves `part.result` in the place of `part.source`, which no other part reads.
    """
    known = [set(stream.values) for stream in streams]
    for node in part.nodes:
        for number, store in enumerate(stores):
            mine = [stream for stream in streams if stream.weights == number]
            if mine:
                _compute(node, mine, store, symbols)
        on_node(node)
    if not part.path:
        return
    for stream, before in zip(streams, known, strict=True):
        kept = before - {part.source} | {part.result}
        stream.values = {value: a for value, a in stream.values.items() if value in kept}


def _compute(
    node: ir.Node, streams: Sequence[Stream], store: ir.WeightStore, symbols: Mapping[str, int]
) -> None:
    loaded = {weight.name: load_wide(weight, store) for weight in node.weights}
    kinds = [value.type for value in node.results]
    for stream in streams:
        operands = list(_operands(node, stream.values, loaded))
        results = run_op(node.op, operands, node.attributes, symbols, kinds)
        stream.values.update(zip(node.results, results, strict=True))


def _operands(node: ir.Node, values: Environment, loaded: Mapping[str, Any]) -> Iterator[Any]:
    for operand in node.operands:
        yield values[operand] if isinstance(operand, ir.Value) else loaded[operand.name]


def first_values(parts: Layered, tokens: Array) -> tuple[Environment, dict[str, int]]:
    """The inputs of a step that reads all tokens at once, and what its symbols are."""
    count = len(tokens)
    symbols = {"T": count, "R": count, "S": 0}
    values: Environment = {}
    for value in parts.inputs:
        if value.name == "tokens":
            values[value] = tokens
        elif value.name == "rows":
            values[value] = np.arange(count)
        else:
            values[value] = np.zeros((0, *cast("tuple[int, ...]", value.type.shape[1:])), "f4")
    return values, symbols
