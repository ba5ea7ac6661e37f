"""Is a module well-formed? SSA order, known ops, attributes, and types that follow the rules."""

from __future__ import annotations

import re

from arkinfer.errors import InternalError
from arkinfer.ir.core import Attribute, Function, Module, Node, Value, Weight
from arkinfer.ir.ops import complete_attributes, infer_types
from arkinfer.ir.text import print_node, value_names
from arkinfer.ir.types import CacheType, Sym

_NAME = re.compile(r"[^\s(),]+")
"""What the text form can carry as the name of a weight, a function, an input or an output."""


def verify_module(module: Module) -> None:
    """Checks every function.

    Raises:
        InternalError: names the line of the first node that breaks a rule, and the rule.
    """
    _verify_attributes("the module", module.attributes)
    for weight in module.weights.values():
        _verify_name("a weight", weight.name)
        for name in weight.source.inputs if weight.source else ():
            if name not in module.weights:
                raise InternalError(f"@{weight.name} comes from @{name}, which is not declared")
    for function in module.functions.values():
        _verify_function(module, function)


def _verify_function(module: Module, function: Function) -> None:
    _verify_interface(function)
    names = value_names(function)
    known: set[Value] = set(function.inputs)
    appended: set[Value] = set()
    for node in function.nodes:
        try:
            _verify_node(module, node, known)
            _verify_caches(node, appended)
        except InternalError as error:
            what = f"the IR of @{function.name} is wrong at: {print_node(node, names)}"
            raise InternalError(what, str(error)) from error
        known.update(node.results)
    for name, value in zip(function.output_names, function.outputs, strict=True):
        if value not in known:
            raise InternalError(f"@{function.name} returns {name}, which no node makes")
        if value in appended:
            raise InternalError(f"@{function.name} returns {name}, a cache as it was before")


def _verify_interface(function: Function) -> None:
    _verify_name("a function", function.name)
    inputs = [value.name for value in function.inputs]
    for kind, names in (("input", inputs), ("output", function.output_names)):
        for name in names:
            _verify_name(f"an {kind}", name)
        if len(set(names)) != len(names):
            raise InternalError(f"@{function.name} has two {kind}s of one name")
    if not function.outputs or len(function.outputs) != len(function.output_names):
        raise InternalError(f"@{function.name} needs outputs, each with a name")


def _verify_name(kind: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InternalError(f"{name!r} cannot name {kind}")


def _verify_attributes(where: str, attributes: dict[str, Attribute]) -> None:
    """Plain Python values only: a numpy scalar would not come back from the text."""
    for name, value in attributes.items():
        for item in value if isinstance(value, tuple) else (value,):
            if type(item) not in (int, float, bool, str, Sym):
                kind = type(item).__name__
                raise InternalError(f'the attribute "{name}" of {where} is a {kind}')


def _verify_node(module: Module, node: Node, known: set[Value]) -> None:
    for operand in node.operands:
        if isinstance(operand, Weight):
            if module.weights.get(operand.name) != operand:
                raise InternalError(f"@{operand.name} is not declared as it is used")
        elif operand not in known:
            raise InternalError("an operand is used before it is made")
    if node.attributes != complete_attributes(node.op, node.attributes):
        raise InternalError("attributes are not complete")
    _verify_attributes("the node", node.attributes)
    if node.loc != node.loc.strip() or len(node.loc.splitlines()) > 1:
        raise InternalError("its location is not one line")
    for value in node.results:
        if value.producer is not node:
            raise InternalError("a result does not know its producer")
    inferred = infer_types(node.op, [o.type for o in node.operands], node.attributes)
    declared = [value.type for value in node.results]
    if inferred != declared:
        raise InternalError(
            f"its result is {', '.join(map(str, declared))}, but the op gives "
            f"{', '.join(map(str, inferred))}"
        )


def _verify_caches(node: Node, appended: set[Value]) -> None:
    """A cache that was appended to has no use left, so that a backend may append in place."""
    if any(value in appended for value in node.values):
        raise InternalError("the cache was appended to before")
    if node.op == "cache.append":
        appended.update(value for value in node.values if isinstance(value.type, CacheType))
