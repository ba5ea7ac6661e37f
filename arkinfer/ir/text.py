"""The text form of the IR: `print_module` and, in `parse.py`, its exact inverse.

    module {context = 8192}
    weight @model.norm.weight : bf16[256]
    func @step(%tokens: i64[T], %rows: i64[R], %k0: cache<f32>[S, 1, 64]) {
      %0 = nn.embedding(%tokens, @model.embed_tokens.weight) {scale = 12.0} : f32[T, 256]  // model
      return logits = %9, k0 = %3
    }

It is kept in artifacts, so it must stay readable for years: change it only with a version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import count

from arkinfer.ir.core import Attribute, Derived, Function, Module, Node, Operand, Value, Weight
from arkinfer.ir.types import Sym


def print_module(module: Module) -> str:
    """The whole module as text; the same module always gives the same text."""
    lines = [f"module{_attributes(module.attributes)}"]
    lines += [_weight(weight) for weight in module.weights.values()]
    for function in module.functions.values():
        lines += [*print_function(function).splitlines()]
    return "\n".join(lines) + "\n"


def print_function(function: Function) -> str:
    names = value_names(function)
    inputs = ", ".join(f"%{names[v]}: {v.type}" for v in function.inputs)
    lines = [f"func @{function.name}({inputs}) {{"]
    lines += ["  " + print_node(node, names) for node in function.nodes]
    outputs = [
        f"{name} = %{names[value]}"
        for name, value in zip(function.output_names, function.outputs, strict=True)
    ]
    lines += [f"  return {', '.join(outputs)}", "}"]
    return "\n".join(lines)


def value_names(function: Function) -> dict[Value, str]:
    """Inputs keep their names; results are numbered in order."""
    names = {value: value.name for value in function.inputs}
    taken = set(names.values())
    numbers = (str(n) for n in count() if str(n) not in taken)
    for node in function.nodes:
        names.update(zip(node.results, numbers, strict=False))
    return names


def print_node(node: Node, names: Mapping[Value, str]) -> str:
    """One line: results, op, operands, attributes, result types, location."""
    results = ", ".join(f"%{names[value]}" for value in node.results)
    operands = ", ".join(_operand(operand, names) for operand in node.operands)
    types = ", ".join(str(value.type) for value in node.results)
    loc = f"  // {node.loc}" if node.loc else ""
    return f"{results} = {node.op}({operands}){_attributes(node.attributes)} : {types}{loc}"


def _operand(operand: Operand, names: Mapping[Value, str]) -> str:
    if isinstance(operand, Weight):
        return f"@{operand.name}"
    return f"%{names.get(operand, '<undefined>')}"


def _weight(weight: Weight) -> str:
    source = f" = {_derived(weight.source)}" if weight.source else ""
    return f"weight @{weight.name} : {weight.type}{source}"


def _derived(source: Derived) -> str:
    inputs = ", ".join(f"@{name}" for name in source.inputs)
    return f"{source.rule}({inputs}){_attributes(dict(source.attributes))}"


def _attributes(attributes: Mapping[str, Attribute]) -> str:
    if not attributes:
        return ""
    return " {" + ", ".join(f"{k} = {_value(v)}" for k, v in attributes.items()) + "}"


def _value(value: Attribute) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_value(v) for v in value)}]"
    return str(value) if isinstance(value, Sym) else repr(value)
