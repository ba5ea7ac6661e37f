"""How two texts of the IR differ, op by op. Knows no artifact and no weights.

Nodes are matched by op and torch path in their order, never by the numbers of values, which shift
with every node that is added; then attributes, types, weights and operands are compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

from arkinfer import ir
from arkinfer.errors import ArkError
from arkinfer.ir.text import print_node, value_names

MOST = 20_000
"""Nodes that are matched; more take too long."""

CONTEXT = 2
"""Unchanged lines that are shown around those that differ."""


@dataclass(frozen=True)
class Change:
    """A node that is in both graphs and differs.

    Attributes:
        op: its op.
        loc: the torch path that it came from.
        kinds: what differs: "attributes", "types", "weights" or "operands".
        what: the difference, e.g. "scale 12.0 → 1.0".
    """

    op: str
    loc: str
    kinds: tuple[str, ...]
    what: str


@dataclass(frozen=True)
class GraphDiff:
    """How two graphs differ.

    Attributes:
        added: how many nodes of each op only the second one has.
        removed: and only the first one.
        changed: nodes that differ.
        attributes: facts of the module that differ, e.g. "context 8192 → 1024".
        lines: a unified diff, a node a line.
    """

    added: dict[str, int]
    removed: dict[str, int]
    changed: tuple[Change, ...]
    attributes: tuple[str, ...]
    lines: tuple[str, ...]

    @property
    def same(self) -> bool:
        return not (self.added or self.removed or self.changed or self.attributes)


def differing_ops(a: str, b: str) -> GraphDiff:
    """Compares two modules.

    Args:
        a: the text of the first one.
        b: that of the second.

    Raises:
        ValueError: a text cannot be read, or has too many nodes.
    """
    first, second = _parsed(a), _parsed(b)
    added: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    changed: list[Change] = []
    lines: list[str] = []
    for name in dict.fromkeys([*first.functions, *second.functions]):
        pair = [module.functions.get(name) or ir.Function(name, []) for module in (first, second)]
        one = _Functions(*pair)
        one.compare()
        added += one.added
        removed += one.removed
        changed += one.changed
        lines += one.unified()
    attributes = _differing(first.attributes, second.attributes)
    return GraphDiff(dict(added), dict(removed), tuple(changed), tuple(attributes), tuple(lines))


def _parsed(text: str) -> ir.Module:
    try:
        module = ir.parse_module(text)
    except (ArkError, ArithmeticError, LookupError, RecursionError, TypeError) as error:
        raise ValueError(str(error)) from error
    if sum(len(function.nodes) for function in module.functions.values()) > MOST:
        raise ValueError(f"it has more than {MOST:,} nodes")
    return module


class _Functions:
    """Two functions of one name, and what was found about them."""

    def __init__(self, a: ir.Function, b: ir.Function) -> None:
        self._a, self._b = a, b
        self._names = value_names(a), value_names(b)
        self._partner = dict(self._inputs())  # value of a -> the one of b that stands for it
        self._marked: list[tuple[str, str]] = []  # (" ", "-" or "+", line)
        self.added: Counter[str] = Counter()
        self.removed: Counter[str] = Counter()
        self.changed: list[Change] = []

    def _inputs(self) -> Iterator[tuple[ir.Value, ir.Value]]:
        known = {value.name: value for value in self._b.inputs}
        for value in self._a.inputs:
            if value.name in known:
                yield value, known[value.name]

    def compare(self) -> None:
        keys = [[(node.op, node.loc) for node in f.nodes] for f in (self._a, self._b)]
        matcher = SequenceMatcher(None, *keys, autojunk=False)
        for tag, a0, a1, b0, b1 in matcher.get_opcodes():
            ours, theirs = self._a.nodes[a0:a1], self._b.nodes[b0:b1]
            if tag == "equal":
                for node, other in zip(ours, theirs, strict=True):
                    self._pair(node, other)
                continue
            self.removed.update(node.op for node in ours)
            self.added.update(node.op for node in theirs)
            self._marked += [("-", print_node(node, self._names[0])) for node in ours]
            self._marked += [("+", print_node(node, self._names[1])) for node in theirs]
        ends = [
            self._returns(f, names)
            for f, names in zip((self._a, self._b), self._names, strict=True)
        ]
        if [self._partner.get(value) for value in self._a.outputs] != self._b.outputs:
            self._marked += [("-", ends[0]), ("+", ends[1])]
            self.changed.append(Change("return", "", ("operands",), f"{ends[0]} → {ends[1]}"))

    def _pair(self, a: ir.Node, b: ir.Node) -> None:
        lines = print_node(a, self._names[0]), print_node(b, self._names[1])
        found = {kind: what for kind, what in self._differences(a, b) if what}
        self._partner.update(zip(a.results, b.results, strict=False))
        if not found:
            self._marked.append((" ", lines[0]))
            return
        self._marked += [("-", lines[0]), ("+", lines[1])]
        self.changed.append(Change(a.op, a.loc, tuple(found), "; ".join(found.values())))

    def _differences(self, a: ir.Node, b: ir.Node) -> Iterator[tuple[str, str]]:
        yield "attributes", ", ".join(_differing(a.attributes, b.attributes))
        types = [", ".join(str(value.type) for value in node.results) for node in (a, b)]
        yield "types", _arrow(*types)
        weights = [", ".join(f"@{weight.name}" for weight in node.weights) for node in (a, b)]
        yield "weights", _arrow(*weights)
        if [self._partner.get(value) for value in a.values] != b.values:
            texts = [
                ", ".join(f"%{names.get(value, '?')}" for value in node.values)
                for node, names in zip((a, b), self._names, strict=True)
            ]
            yield "operands", f"({texts[0]}) → ({texts[1]})"

    def _returns(self, function: ir.Function, names: dict[ir.Value, str]) -> str:
        pairs = zip(function.output_names, function.outputs, strict=True)
        return "return " + ", ".join(f"{name} = %{names[value]}" for name, value in pairs)

    def unified(self) -> list[str]:
        """Lines that differ, with some around them; a head before each run of lines."""
        near = [
            any(mark != " " for mark, _ in self._marked[max(0, i - CONTEXT) : i + CONTEXT + 1])
            for i in range(len(self._marked))
        ]
        result: list[str] = []
        for index, (mark, line) in enumerate(self._marked):
            if not near[index]:
                continue
            if index == 0 or not near[index - 1]:
                result.append(f"@@ {self._a.name}, line {index + 1} @@")
            result.append(f"{mark} {line}")
        return result


def _differing(a: dict[str, ir.Attribute], b: dict[str, ir.Attribute]) -> list[str]:
    """Facts of two nodes or modules that differ, "name before → after" each."""
    keys = dict.fromkeys([*a, *b])
    return [
        f"{key} {a.get(key, 'not there')} → {b.get(key, 'not there')}"
        for key in keys
        if key not in a or key not in b or a[key] != b[key]
    ]


def _arrow(a: str, b: str) -> str:
    return "" if a == b else f"{a} → {b}"
