"""Is a module well-formed? SSA order, known ops, attributes, and types that follow the rules."""

from __future__ import annotations

from arkinfer.errors import InternalError
from arkinfer.ir.core import Function, Module, Node, Value, Weight
from arkinfer.ir.ops import complete_attributes, infer_types
from arkinfer.ir.text import print_node, value_names
from arkinfer.ir.types import CacheType


def verify_module(module: Module) -> None:
    """Checks every function.

    Raises:
        InternalError: names the line of the first node that breaks a rule, and the rule.
    """
    for weight in module.weights.values():
        for name in weight.source.inputs if weight.source else ():
            if name not in module.weights:
                raise InternalError(f"@{weight.name} comes from @{name}, which is not declared")
    for function in module.functions.values():
        _verify_function(module, function)


def _verify_function(module: Module, function: Function) -> None:
    names = value_names(function)
    known: set[Value] = set(function.inputs)
    appended: set[Value] = set()
    if len({value.name for value in function.inputs}) != len(function.inputs):
        raise InternalError(f"@{function.name} has two inputs of one name")
    for node in function.nodes:
        try:
            _verify_node(module, node, known)
            if node.op == "cache.append":
                _verify_append(node, appended)
        except InternalError as error:
            what = f"the IR of @{function.name} is wrong at: {print_node(node, names)}"
            raise InternalError(what, str(error)) from error
        known.update(node.results)
    for name, value in zip(function.output_names, function.outputs, strict=True):
        if value not in known:
            raise InternalError(f"@{function.name} returns {name}, which no node makes")


def _verify_node(module: Module, node: Node, known: set[Value]) -> None:
    for operand in node.operands:
        if isinstance(operand, Weight):
            if module.weights.get(operand.name) != operand:
                raise InternalError(f"@{operand.name} is not declared as it is used")
        elif operand not in known:
            raise InternalError("an operand is used before it is made")
    if node.attributes != complete_attributes(node.op, node.attributes):
        raise InternalError("attributes are not complete")
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


def _verify_append(node: Node, appended: set[Value]) -> None:
    """A cache is appended to once, so that a backend may do it in place."""
    old = node.values[0]
    assert isinstance(old.type, CacheType)
    if old in appended:
        raise InternalError("the cache was appended to before")
    appended.add(old)
