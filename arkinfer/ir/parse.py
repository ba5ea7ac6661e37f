"""Reads the text form of the IR back: `parse_module(print_module(m)) == m`, always."""

from __future__ import annotations

import json
import re
from typing import cast

from arkinfer.errors import ArkError, InternalError
from arkinfer.ir.core import Attribute, Derived, Function, Module, Node, Operand, Value, Weight
from arkinfer.ir.ops import complete_attributes
from arkinfer.ir.types import CacheType, Type, dim, parse_type

_STRING = r'"(?:[^"\\]|\\.)*"'
_ATTRIBUTES = r"(?: (\{(?:[^\"{}]|" + _STRING + r")*\}))?"
_TYPE = re.compile(r"(?:\w+<[^>]*>|\w+)\[[^\]]*\]")
_TYPES = rf"({_TYPE.pattern}(?:, {_TYPE.pattern})*)"
_HEAD = re.compile(rf"module{_ATTRIBUTES}")
_WEIGHT = re.compile(rf"weight @(\S+) : ({_TYPE.pattern})(?: = (.*))?")
_DERIVED = re.compile(rf"([\w.]+)\(([^)]*)\){_ATTRIBUTES}")
_INPUT = re.compile(rf"%(\S+): ({_TYPE.pattern})")
_FUNC = re.compile(rf"func @(\S+?)\(((?:{_INPUT.pattern}(?:, (?!\))|(?=\))))*)\) \{{")
_NODE = re.compile(rf"(%.*?) = ([\w.]+)\(([^)]*)\){_ATTRIBUTES} : {_TYPES}(?:  // (.*))?")
_SCALAR = re.compile(_STRING + r"|[^,\[\]]+")


def parse_module(text: str) -> Module:
    """The module that the text describes. Lines that start with `//` are comments.

    Raises:
        InternalError: the text is not well-formed; names the line.
    """
    module = Module()
    headed = False
    function: Function | None = None
    names: dict[str, Value] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("//"):
            continue
        try:
            if function is not None:
                if line == "}":
                    function = None
                elif function.output_names:
                    raise InternalError("nothing can follow the return")
                else:
                    _body_line(line, module, function, names)
            elif not headed:
                module.attributes = _head(line)
                headed = True
            elif match := _WEIGHT.fullmatch(line):
                module.add_weight(_weight(match))
            elif match := _FUNC.fullmatch(line):
                function, names = _function(match)
                if function.name in module.functions:
                    raise InternalError(f"@{function.name} is defined twice")
                module.functions[function.name] = function
            else:
                raise InternalError("expected weight or func")
        except (ArkError, ValueError) as error:  # ValueError: of float() and json.loads()
            what = f"line {number} of the IR text cannot be read: {line}"
            raise InternalError(what, str(error)) from error
    if function is not None:
        raise InternalError(f"the IR text ends inside of @{function.name}")
    if not headed:
        raise InternalError("the IR text is empty")
    return module


def _head(line: str) -> dict[str, Attribute]:
    match = _HEAD.fullmatch(line)
    if match is None:
        raise InternalError("expected `module {attributes}`")
    return _attributes(match[1])


def _weight(match: re.Match[str]) -> Weight:
    kind = parse_type(match[2])
    if isinstance(kind, CacheType):
        raise InternalError(f"@{match[1]} cannot be a cache")
    if match[3] is None:
        return Weight(match[1], kind)
    source = _DERIVED.fullmatch(match[3])
    if source is None:
        raise InternalError(f"{match[3]} does not say how @{match[1]} is derived")
    inputs = tuple(part.strip().removeprefix("@") for part in source[2].split(",") if part.strip())
    return Weight(match[1], kind, Derived(source[1], inputs, tuple(_attributes(source[3]).items())))


def _function(match: re.Match[str]) -> tuple[Function, dict[str, Value]]:
    inputs = [Value(parse_type(part[2]), part[1]) for part in _INPUT.finditer(match[2])]
    return Function(match[1], inputs), {value.name: value for value in inputs}


def _body_line(line: str, module: Module, function: Function, names: dict[str, Value]) -> None:
    if line.startswith("return "):
        for part in line.removeprefix("return ").split(","):
            name, _, value = part.strip().partition(" = ")
            function.output_names.append(name)
            function.outputs.append(_lookup(names, value.removeprefix("%")))
        return
    match = _NODE.fullmatch(line)
    if match is None:
        raise InternalError("expected `%result = op(operands) {attributes} : type  // location`")
    types: list[Type] = [parse_type(t[0]) for t in _TYPE.finditer(match[5])]
    results = [part.strip().removeprefix("%") for part in match[1].split(",")]
    if len(types) != len(results):
        raise InternalError(f"{len(results)} results, but {len(types)} types")
    operands: list[Operand] = []
    for part in (p.strip() for p in match[3].split(",") if p.strip()):
        if part.startswith("@"):
            if part[1:] not in module.weights:
                raise InternalError(f"{part} is not declared")
            operands.append(module.weights[part[1:]])
        else:
            operands.append(_lookup(names, part.removeprefix("%")))
    values = [Value(t) for t in types]
    attributes = complete_attributes(match[2], _attributes(match[4]))
    function.nodes.append(Node(match[2], operands, attributes, values, match[6] or ""))
    for name, value in zip(results, values, strict=True):
        if name in names:
            raise InternalError(f"%{name} is defined twice")
        names[name] = value


def _lookup(names: dict[str, Value], name: str) -> Value:
    if name not in names:
        raise InternalError(f"%{name} is used before it is defined")
    return names[name]


def _attributes(text: str | None) -> dict[str, Attribute]:
    """Parses `{a = 1, b = [S, 2], c = "x"}`."""
    found: dict[str, Attribute] = {}
    rest = (text or "{}").strip()[1:-1].strip()
    while rest:
        key, _, rest = rest.partition(" = ")
        value, rest = _parse_value(rest)
        if key in found:
            raise InternalError(f'the attribute "{key}" is given twice')
        found[key] = value
        rest = rest.lstrip(", ")
    return found


def _parse_value(text: str) -> tuple[Attribute, str]:
    if not text.startswith("["):
        match = _SCALAR.match(text)
        if match is None:
            raise InternalError(f"expected a value at: {text}")
        return _scalar(match[0].strip()), text[match.end() :]
    items: list[Attribute] = []
    rest = text[1:].lstrip()
    while not rest.startswith("]"):
        match = _SCALAR.match(rest)
        if match is None:
            raise InternalError(f"expected a list at: {text}")
        items.append(_scalar(match[0].strip()))
        rest = rest[match.end() :].lstrip(", ")
    return cast(Attribute, tuple(items)), rest[1:]


def _scalar(text: str) -> Attribute:
    if text in ("true", "false"):
        return text == "true"
    if text.startswith('"'):
        return cast(str, json.loads(text))
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    if re.fullmatch(r"-?(?:\d.*|inf|nan)", text) and "*" not in text:
        return float(text)
    return dim(text)
