"""Reads the text form of the IR back: `parse_module(print_module(m)) == m`, always."""

from __future__ import annotations

import json
import re
from typing import cast

from arkinfer.errors import ArkError, InternalError
from arkinfer.ir.core import Attribute, Derived, Function, Module, Node, Operand, Value, Weight
from arkinfer.ir.ops import complete_attributes
from arkinfer.ir.types import CacheType, Type, dim, parse_type

_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_ATTRIBUTES = r"(?: (\{[^\"{}]*(?:" + _STRING + r"[^\"{}]*)*\}))?"
_TYPE = re.compile(r"(?:\w+<[^>]*>|\w+)\[[^\]]*\]")
_TYPES = rf"({_TYPE.pattern}(?:, {_TYPE.pattern})*)"
_HEAD = re.compile(rf"module{_ATTRIBUTES}")
_WEIGHT = re.compile(rf"weight @(\S+) : ({_TYPE.pattern})(?: = (.*))?")
_DERIVED = re.compile(rf"([\w.]+)\(([^)]*)\){_ATTRIBUTES}")
_INPUT = re.compile(rf"%(\S+): ({_TYPE.pattern})")
_FUNC = re.compile(rf"func @(\S+?)\(((?:{_INPUT.pattern}(?:, (?!\))|(?=\))))*)\) \{{")
_NAMES = r"%[^\s(),]+(?:, %[^\s(),]+)*"
_NODE = re.compile(rf"({_NAMES}) = ([\w.]+)\(([^)]*)\){_ATTRIBUTES} : {_TYPES}(?:  // (.*))?")
_KEY = re.compile(r"([^\s=]+) = ?")
_SCALAR = re.compile(_STRING + r"|[^,\[\]]+")


LONGEST_TEXT, LONGEST_LINE, MOST_LINES = 4 << 20, 64 << 10, 20_000
"""Characters of a module and of one line; lines, of which a model with 32 layers has 700."""


def parse_module(text: str) -> Module:
    """The module that the text describes. Lines that start with `//` are comments.

    Raises:
        InternalError: the text is not well-formed, or too long; names the line.
    """
    if len(text) > LONGEST_TEXT:
        raise InternalError(f"the IR text has more than {LONGEST_TEXT:,} characters")
    if text.count("\n") > MOST_LINES:
        raise InternalError(f"the IR text has more than {MOST_LINES:,} lines")
    module = Module()
    headed = False
    function: Function | None = None
    names: dict[str, Value] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("//"):
            continue
        try:
            if len(line) > LONGEST_LINE:
                raise InternalError(f"it has more than {LONGEST_LINE:,} characters")
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
    text = (text or "{}").strip()[1:-1].strip()
    at = 0
    while at < len(text):
        match = _KEY.match(text, at)
        if match is None:
            raise InternalError(f"expected `name = value` at: {text[at : at + 40]}")
        if match[1] in found:
            raise InternalError(f'the attribute "{match[1]}" is given twice')
        found[match[1]], at = _parse_value(text, match.end())
        at = _skip(text, at)
    return found


def _parse_value(text: str, at: int) -> tuple[Attribute, int]:
    """The value that begins there, and where it ends."""
    if not text.startswith("[", at):
        return _parse_scalar(text, at)
    items: list[Attribute] = []
    start, at = at, _skip(text, at + 1)
    while not text.startswith("]", at):
        if at == len(text):
            raise InternalError(f"its list has no end: {text[start : start + 40]}")
        item, at = _parse_scalar(text, at)
        items.append(item)
        at = _skip(text, at)
    return cast(Attribute, tuple(items)), at + 1


def _parse_scalar(text: str, at: int) -> tuple[Attribute, int]:
    match = _SCALAR.match(text, at)
    if match is None:
        raise InternalError(f"expected a value at: {text[at : at + 40]}")
    return _scalar(match[0].strip()), match.end()


def _skip(text: str, at: int) -> int:
    """Past commas and spaces."""
    while text.startswith((",", " "), at):
        at += 1
    return at


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
