"""What a module looked like at one step of a build, and which values of two steps belong together.

Passes rewrite in place; a snapshot keeps what they change. Holds no numbers, knows no op.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from arkinfer import ir
from arkinfer.errors import InternalError
from arkinfer.ir import Attribute, Operand, Type, Value, Weight


@dataclass(frozen=True, eq=False)
class Line:
    """One node as it stood then.

    Attributes:
        op, operands, attributes, results, loc: of the node.
        types: of its results.
        text: its line in the text form.
    """

    op: str
    operands: tuple[Operand, ...]
    attributes: Mapping[str, Attribute]
    results: tuple[Value, ...]
    types: tuple[Type, ...]
    loc: str
    text: str

    @property
    def values(self) -> list[Value]:
        """The operands that are values."""
        return [o for o in self.operands if isinstance(o, Value)]

    @property
    def weights(self) -> list[Weight]:
        """The operands that are weights."""
        return [o for o in self.operands if isinstance(o, Weight)]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The function `step` of a module after one step of the build.

    Attributes:
        step: "traced", "copied", or the spec of the pass that had just run.
        module: the object itself, which later passes change.
        inputs: by name.
        outputs: by name.
        kinds: types of the inputs by name.
        lines: nodes in execution order.
        names: what the text form calls each value.
        weights: declared symbols.
        replaced: what stands for values that are gone, of this pass and those before it.
    """

    step: str
    module: ir.Module
    inputs: dict[str, Value]
    outputs: dict[str, Value]
    kinds: dict[str, Type]
    lines: tuple[Line, ...]
    names: dict[Value, str]
    weights: dict[str, Weight]
    replaced: dict[Value, ir.Replacement]

    @classmethod
    def of(cls, step: str, module: ir.Module) -> Snapshot:
        function = module.functions["step"]
        names = ir.value_names(function)
        lines = tuple(
            Line(
                node.op,
                tuple(node.operands),
                dict(node.attributes),
                tuple(node.results),
                tuple(value.type for value in node.results),
                node.loc,
                ir.print_node(node, names),
            )
            for node in function.nodes
        )
        return cls(
            step,
            module,
            {value.name: value for value in function.inputs},
            dict(zip(function.output_names, function.outputs, strict=True)),
            {value.name: value.type for value in function.inputs},
            lines,
            names,
            dict(module.weights),
            dict(function.replaced),
        )

    def producers(self) -> dict[Value, Line]:
        return {value: line for line in self.lines for value in line.results}

    def types(self) -> dict[Value, Type]:
        """As they were: passes may retype a value in place."""
        kinds = {value: self.kinds[name] for name, value in self.inputs.items()}
        for line in self.lines:
            kinds.update(zip(line.results, line.types, strict=True))
        return kinds


@dataclass(frozen=True)
class Partner:
    """A value of the step before, and what its heir is to be times it."""

    value: Value
    factor: float = 1.0


def partners(before: Snapshot, after: Snapshot) -> dict[Value, list[Partner]]:
    """For values of `after`: those of `before` that they stand for, their own first.

    Raises:
        InternalError: a copy has not as many nodes as what it is a copy of.
    """
    if before.module is not after.module:
        return {new: [Partner(old)] for old, new in _copies(before, after).items()}
    living = {*after.inputs.values(), *(v for line in after.lines for v in line.results)}
    found: dict[Value, list[Partner]] = {}
    for old in (*before.inputs.values(), *(v for line in before.lines for v in line.results)):
        new, factor = old, 1.0
        while new not in living and new in after.replaced:
            step = after.replaced[new]
            new, factor = step.value, factor * step.factor
        if new in living:
            mine = found.setdefault(new, [])
            mine.insert(0 if new is old else len(mine), Partner(old, factor))
    return found


def _copies(before: Snapshot, after: Snapshot) -> dict[Value, Value]:
    """Value -> its copy; copies go through text, which keeps the order."""
    if [line.op for line in before.lines] != [line.op for line in after.lines]:
        raise InternalError(f"the module that was {after.step} is not the one before it")
    twins = {value: after.inputs[name] for name, value in before.inputs.items()}
    for old, new in zip(before.lines, after.lines, strict=True):
        twins.update(zip(old.results, new.results, strict=True))
    return twins
