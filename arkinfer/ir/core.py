"""The object model of the IR: a small typed SSA graph. Knows no particular op.

Design follows xDSL and onnx_ir: values know their producer, nodes are ordered, weights are
symbols that a `WeightStore` resolves later, so that no graph ever holds the model in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from arkinfer.errors import InternalError
from arkinfer.ir.types import Dim, QuantizedType, Sym, TensorType, Type

Attribute: TypeAlias = "int | float | bool | str | Sym | tuple[int | float | str | Sym, ...]"


@dataclass(frozen=True)
class Derived:
    """How a weight comes from others, row by row: `concat(@q, @k, @v)`, `scale(@w) {by = 0.25}`."""

    rule: str
    inputs: tuple[str, ...]
    attributes: tuple[tuple[str, Attribute], ...] = ()


@dataclass(frozen=True)
class Weight:
    """A symbol: `@model.norm.weight : bf16[256]`. Without a source it stands in the checkpoint."""

    name: str
    type: TensorType | QuantizedType
    source: Derived | None = None


@dataclass(eq=False)
class Value:
    """One SSA value: an input of its function or a result of its producer."""

    type: Type
    name: str = ""
    producer: Node | None = field(default=None, repr=False)  # it would tell the whole graph

    @property
    def tensor(self) -> TensorType:
        if not isinstance(self.type, TensorType):
            raise InternalError(f"%{self.name} is a {self.type}, not a tensor")
        return self.type


Operand: TypeAlias = "Value | Weight"


@dataclass(eq=False)
class Node:
    """One operation. `loc` is the torch module path that it came from ("" when there is none)."""

    op: str
    operands: list[Operand]
    attributes: dict[str, Attribute]
    results: list[Value]
    loc: str = ""

    def __post_init__(self) -> None:
        for value in self.results:
            value.producer = self

    @property
    def result(self) -> Value:
        if len(self.results) != 1:
            raise InternalError(f"{self.op} has {len(self.results)} results, not one")
        return self.results[0]

    @property
    def values(self) -> list[Value]:
        """The operands that are values."""
        return [o for o in self.operands if isinstance(o, Value)]

    @property
    def weights(self) -> list[Weight]:
        """The operands that are weights."""
        return [o for o in self.operands if isinstance(o, Weight)]


@dataclass(frozen=True)
class Replacement:
    """What stands for a value that is gone, and that times `factor`."""

    value: Value
    factor: float = 1.0


@dataclass(eq=False)
class Function:
    """A named list of nodes in execution order. Input names are part of its interface."""

    name: str
    inputs: list[Value]
    nodes: list[Node] = field(default_factory=list[Node])
    outputs: list[Value] = field(default_factory=list[Value])
    output_names: list[str] = field(default_factory=list[str])
    replaced: dict[Value, Replacement] = field(default_factory=dict["Value", "Replacement"])
    """What stands for values that passes took away. Not part of the function's identity, nor of
    its text: `arkinfer.align` compares the one with the other."""

    def users(self) -> dict[Value, list[Node]]:
        """Who uses each value (a node once per operand). Outputs of the function do not count."""
        found: dict[Value, list[Node]] = {value: [] for value in self.inputs}
        for node in self.nodes:
            for value in node.values:
                found.setdefault(value, []).append(node)
            for value in node.results:
                found.setdefault(value, [])
        return found

    def replace_values(self, new: Mapping[Value, Value], factor: float = 1.0) -> None:
        """Every use of a key, inputs and outputs included, becomes a use of what stands for it.

        Args:
            new: value -> what stands for it; that may be a key itself.
            factor: what the new values are of the old ones, where a pass scales them on purpose.
        """

        def now(value: Value) -> Value:
            while value in new:
                value = new[value]
            return value

        for node in self.nodes:
            node.operands = [now(o) if isinstance(o, Value) else o for o in node.operands]
        self.inputs = [now(value) for value in self.inputs]
        self.outputs = [now(value) for value in self.outputs]
        self.replaced |= {old: Replacement(value, factor) for old, value in new.items()}

    def insert_before(self, anchor: Node, fresh: Iterable[Node]) -> None:
        index = self.nodes.index(anchor)
        self.nodes[index:index] = fresh

    def remove(self, dead: Iterable[Node]) -> None:
        gone = {id(node) for node in dead}
        self.nodes = [node for node in self.nodes if id(node) not in gone]


@dataclass(frozen=True)
class Remark:
    """Why a pass left something alone, for `--dump-ir` and `arkinfer-opt --remarks`."""

    pass_name: str
    op: str
    loc: str
    reason: str

    def __str__(self) -> str:
        return f"{self.pass_name}: {self.op} at {self.loc or 'an unnamed place'}: {self.reason}"


@dataclass(eq=False)
class Module:
    """Functions, the weights they mention, and facts about the model as attributes."""

    functions: dict[str, Function] = field(default_factory=dict[str, Function])
    weights: dict[str, Weight] = field(default_factory=dict[str, Weight])
    attributes: dict[str, Attribute] = field(default_factory=dict[str, Attribute])
    remarks: list[Remark] = field(default_factory=list[Remark])
    """Not part of the module's identity, nor of its text."""

    def __eq__(self, other: object) -> bool:
        """Equal structure: same interface, nodes, attributes, weights and locations.

        Names of intermediate values and remarks do not count.
        """
        if not isinstance(other, Module):
            return NotImplemented
        return (
            _same_attributes(self.attributes, other.attributes)
            and self.weights == other.weights
            and list(self.functions) == list(other.functions)
            and all(
                _same_function(mine, other.functions[name]) for name, mine in self.functions.items()
            )
        )

    def nodes(self) -> Iterator[Node]:
        for function in self.functions.values():
            yield from function.nodes

    def add_weight(self, weight: Weight) -> Weight:
        """Declares a symbol; declaring it again must agree.

        Raises:
            InternalError: the name is taken by a different weight.
        """
        known = self.weights.setdefault(weight.name, weight)
        if known != weight:
            raise InternalError(f"@{weight.name} is declared twice, differently")
        return known

    def remark(self, pass_name: str, node: Node, reason: str) -> None:
        self.remarks.append(Remark(pass_name, node.op, node.loc, reason))


def _same_function(a: Function, b: Function) -> bool:
    if a.output_names != b.output_names or len(a.outputs) != len(b.outputs):
        return False
    if (len(a.inputs), len(a.nodes)) != (len(b.inputs), len(b.nodes)):
        return False
    twins: dict[Value, Value] = {}
    for x, y in zip(a.inputs, b.inputs, strict=True):
        if (x.name, x.type) != (y.name, y.type):
            return False
        twins[x] = y
    for m, n in zip(a.nodes, b.nodes, strict=True):
        if (m.op, m.loc) != (n.op, n.loc) or not _same_attributes(m.attributes, n.attributes):
            return False
        if (len(m.operands), len(m.results)) != (len(n.operands), len(n.results)):
            return False
        for x, y in zip(m.operands, n.operands, strict=True):
            if (twins.get(x) is not y) if isinstance(x, Value) else x != y:
                return False
        for x, y in zip(m.results, n.results, strict=True):
            if x.type != y.type:
                return False
            twins[x] = y
    return all(twins.get(x) is y for x, y in zip(a.outputs, b.outputs, strict=True))


def _same_attributes(a: Mapping[str, Attribute], b: Mapping[str, Attribute]) -> bool:
    """1 and 1.0 differ, and so do 0.0 and -0.0."""
    return {k: repr(v) for k, v in a.items()} == {k: repr(v) for k, v in b.items()}


class Builder:
    """Appends nodes to a list; result types come from the op's own rule."""

    def __init__(self, infer: Callable[[str, Sequence[Type], Mapping[str, Attribute]], list[Type]]):
        self._infer = infer
        self.nodes: list[Node] = []
        self.loc = ""

    def add(self, op: str, *operands: Operand, **attributes: Attribute) -> Value:
        """Appends a node with one result and returns that."""
        (result,) = self.add_multi(op, *operands, **attributes)
        return result

    def add_multi(self, op: str, *operands: Operand, **attributes: Attribute) -> list[Value]:
        types = self._infer(op, [operand.type for operand in operands], attributes)
        node = Node(op, list(operands), dict(attributes), [Value(t) for t in types], self.loc)
        self.nodes.append(node)
        return node.results


__all__ = [
    "Attribute",
    "Builder",
    "Derived",
    "Dim",
    "Function",
    "Module",
    "Node",
    "Operand",
    "Remark",
    "Replacement",
    "Value",
    "Weight",
]
