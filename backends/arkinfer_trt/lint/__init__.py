"""Whether TensorRT takes a network: its rules, checked where no TensorRT is. Knows no IR; what a
node was lowered from, the node says.

The rules are those of the parser of ONNX and of the builder, as far as they are known. A network
that keeps them may still fail on a board: whether there is a fast kernel, only the builder knows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import cast

from onnx import ModelProto, NodeProto, defs

from arkinfer.errors import UnsupportedError
from arkinfer_trt.lint import ops
from arkinfer_trt.lint.network import Network, attributes
from arkinfer_trt.lint.rules import ABSENT, DTYPES, FIRST_OPSET, LAST_OPSET, RULES, Rule

VERSION = "10.16"
"""The TensorRT of JetPack 7.2."""

SHOWN = 3
"""Broken rules that a message tells in full."""


@dataclass(frozen=True)
class Violation:
    """A broken rule.

    Attributes:
        rule: its name.
        place: the op of the IR and its torch path, and the ONNX op that it became.
        text: what is wrong and what would be right.
    """

    rule: str
    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text} [{self.rule}]"


def check(model: ModelProto, constants: Collection[str] = (), version: str = VERSION) -> None:
    """Refuses a network that TensorRT would refuse.

    Args:
        model: without its local functions, as a board gets it.
        constants: inputs that the executor makes constants before TensorRT parses the network.
        version: of TensorRT.

    Raises:
        UnsupportedError: lists the rules that are broken.
        InternalError: it is not even ONNX.
    """
    found = violations(model, constants, version)
    if not found:
        return
    lines = [str(each) for each in found[:SHOWN]]
    if len(found) > SHOWN:
        lines.append(f"There are {len(found) - SHOWN} more")
    raise UnsupportedError(
        f"TensorRT {version} does not take the network",
        ". ".join(lines),
        "Please report it with these lines; `--backend onnxruntime` builds for the cores of the "
        "board, without TensorRT",
    )


def violations(
    model: ModelProto, constants: Collection[str] = (), version: str = VERSION
) -> list[Violation]:
    """All that `check` finds, in the order of the network.

    Raises:
        InternalError: it is not even ONNX.
    """
    network = Network(model, constants)
    return [*_of_network(network), *_of_nodes(network, version)]


def _of_network(network: Network) -> Iterator[Violation]:
    opset = network.opsets.get("", 0)
    if not FIRST_OPSET <= opset <= LAST_OPSET:
        text = f"opset {opset} of ONNX; TensorRT parses {FIRST_OPSET} to {LAST_OPSET}"
        yield Violation("opset", "The network", f"it is in {text}")
    for name in network.functions:
        text = "TensorRT puts it in the place of nodes of that name, plug-ins among them; remove it"
        yield Violation("functions", f"The function {name}", text)
    allowed = set(DTYPES.values())
    for name in (*network.inputs, *network.initializers):
        dtype = network.value(name).dtype
        if dtype not in allowed:
            text = f"it is {dtype or 'of no type'}, which no tensor of TensorRT is"
            yield Violation("tensor-types", f"The value {name}", text)
        elif dtype == "i4" and name in network.inputs:
            text = "it is i4, which constants may be, and inputs not"
            yield Violation("tensor-types", f"The value {name}", text)


def _of_nodes(network: Network, version: str) -> Iterator[Violation]:
    for node in network.nodes:
        for rule, text in _of_node(network, node, version):
            yield Violation(rule, _place(node), text)


def _place(node: NodeProto) -> str:
    """As the lowering says it in the node's metadata; by the name of the node where it does not."""
    facts = {entry.key: entry.value for entry in node.metadata_props}
    path = facts.get("loc") or node.name.rpartition("/")[0] or node.name or "a place without a name"
    return f"{facts.get('op', node.op_type)} at {path} ({node.op_type})"


def _of_node(network: Network, node: NodeProto, version: str) -> ops.Found:
    if node.domain not in ("", "ai.onnx"):
        yield from ops.plugin(network, node)
        return
    row = RULES.get(node.op_type)
    if row is None:
        yield "known-op", "TensorRT is not known to parse this op; rules.csv tells which it does"
    elif row.since in ("never", "avoid") or _number(row.since) > _number(version):
        yield "known-op", _unknown(row)
    else:
        yield from _types(network, node, row)
        yield from _form(network, node, row)
        if node.op_type in ops.OPS:
            yield from ops.OPS[node.op_type](network, node)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def _unknown(row: Rule) -> str:
    if row.since == "avoid":
        return f"it has no place in an engine that is to be fast: {row.hint}"
    why = "no TensorRT parses it" if row.since == "never" else f"new in TensorRT {row.since}"
    return f"{why}{_hint(row)}"


def _hint(row: Rule) -> str:
    return f"; {row.hint}" if row.hint else ""


def _input(node: NodeProto, index: int) -> str:
    """What ONNX calls it."""
    schema = defs.get_schema(node.op_type, LAST_OPSET, "")
    known = [each.name for each in schema.inputs]
    return known[index] if index < len(known) else f"{known[-1]} {index}"


def _types(network: Network, node: NodeProto, row: Rule) -> ops.Found:
    """Each input is of a type that the op takes; those of one group are alike."""
    for group in row.types:
        seen: dict[str, str] = {}
        for index in group.of(len(node.input)):
            if node.input[index] == "":  # an optional one that is not there
                continue
            dtype = network.value(node.input[index]).dtype
            if dtype:
                seen.setdefault(dtype, _input(node, index))
            if dtype not in group.allowed:
                takes = ", ".join(group.allowed)
                what = f"{_input(node, index)} is {dtype or 'of unknown type'}"
                yield "types", f"{what}; TensorRT takes {takes}{_hint(row)}"
        if len(seen) > 1:
            which = " and ".join(f"{name} is {dtype}" for dtype, name in seen.items())
            yield "strongly-typed", f"{which}; they have to be of one type: cast one of them"


def _form(network: Network, node: NodeProto, row: Rule) -> ops.Found:
    """The opset, ranks, constants, what may not be there."""
    if network.opsets.get("", 0) < row.opset:
        yield "opset", f"it needs opset {row.opset}"
    for group in row.ranks:
        for index in group.of(len(node.input)):
            if node.input[index] == "":
                continue
            rank = network.value(node.input[index]).rank
            if str(rank) not in group.allowed:
                has = "an unknown number of" if rank is None else rank
                takes = " or ".join(group.allowed)
                yield "ranks", f"{_input(node, index)} has {has} axes; TensorRT takes {takes}"
    for index in row.constant:
        if index < len(node.input) and node.input[index] not in network.constants:
            yield "constant-input", f"{_input(node, index)} has to be a constant, and is computed"
    for index in row.absent:
        if index < len(node.input) and node.input[index]:
            name = _input(node, index)
            yield (
                "absent-input",
                f"it has the input {name}, which TensorRT does not take{_hint(row)}",
            )
    if row.outputs is not None and sum(map(bool, node.output)) > row.outputs:
        yield "outputs", f"it has {len(node.output)} outputs; TensorRT gives {row.outputs}"
    given = attributes(node)
    for name, wanted in row.attributes.items():
        if name in given and not _equal(given[name], wanted):
            says = "may not be there" if wanted == ABSENT else f"has to be {wanted}"
            yield "attributes", f"{name} is {given[name]}; it {says}{_hint(row)}"


def _equal(value: object, wanted: str) -> bool:
    """Numbers as such, all of a list, text as it is."""
    if isinstance(value, int | float):
        return f"{value:g}" == wanted
    if isinstance(value, list | tuple):
        return all(_equal(each, wanted) for each in cast("list[object]", value))
    return value == wanted
