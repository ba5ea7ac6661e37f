"""Checks JSON values against a JSON schema, one sentence per error. Knows no manifest.

Covers the keywords of JSON Schema 2020-12 that our schema uses (patterns with both anchors), and
refuses others, so that the published schema never says more than is checked.
"""

from __future__ import annotations

import re
from typing import Any, cast

Schema = dict[str, Any]

_ROOT = "the manifest"

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}
_ARTICLE = {"object": "an object", "array": "a list", "integer": "an integer", "null": "null"}
_ANNOTATIONS = frozenset({"$schema", "title", "description"})


def problem(value: object, schema: Schema, path: str = "") -> str:
    """What is wrong with `value`, as a sentence without its full stop; "" when nothing is.

    >>> problem({"context": 0}, {"properties": {"context": {"minimum": 1}}})
    'context must be at least 1, not 0'
    """
    for keyword, wanted in schema.items():
        if keyword in _ANNOTATIONS:
            continue
        if found := _CHECKS[keyword](value, wanted, path, schema):
            return found
    return ""


def _says(path: str, text: str, value: object) -> str:
    shown = repr(value) if isinstance(value, (str, int, float, bool)) else type(value).__name__
    return f"{path or _ROOT} must be {text}, not {shown:.80}"


def _type(value: object, wanted: str | list[str], path: str, _: Schema) -> str:
    names = [wanted] if isinstance(wanted, str) else wanted
    is_bool = isinstance(value, bool)  # a bool is an int to Python, not to JSON
    if any(isinstance(value, _TYPES[name]) and not is_bool for name in names):
        return ""
    return _says(path, " or ".join(_ARTICLE.get(name, f"a {name}") for name in names), value)


def _const(value: object, wanted: object, path: str, _: Schema) -> str:
    same = value == wanted and type(value) is type(wanted)
    return "" if same else _says(path, repr(wanted), value)


def _enum(value: object, wanted: list[object], path: str, _: Schema) -> str:
    return "" if value in wanted else _says(path, f"one of {', '.join(map(str, wanted))}", value)


def _pattern(value: object, wanted: str, path: str, schema: Schema) -> str:
    if not isinstance(value, str) or re.fullmatch(wanted, value):
        return ""
    return _says(path, str(schema.get("description", f"text that matches {wanted}")), value)


def _minimum(value: object, wanted: float, path: str, _: Schema) -> str:
    if not isinstance(value, (int, float)) or value >= wanted:
        return ""
    return _says(path, f"at least {wanted}", value)


def _maximum(value: object, wanted: float, path: str, _: Schema) -> str:
    if not isinstance(value, (int, float)) or value <= wanted:
        return ""
    return _says(path, f"at most {wanted}", value)


def _max_items(value: object, wanted: int, path: str, _: Schema) -> str:
    if not isinstance(value, list) or len(cast("list[object]", value)) <= wanted:
        return ""
    return f"{path or _ROOT} must have at most {wanted} items"


def _required(value: object, wanted: list[str], path: str, _: Schema) -> str:
    if not isinstance(value, dict):
        return ""
    missing = next((key for key in wanted if key not in value), None)
    return "" if missing is None else f"{_join(path, missing)} is missing"


def _properties(value: object, wanted: dict[str, Schema], path: str, _: Schema) -> str:
    if not isinstance(value, dict):
        return ""
    known = cast("dict[str, object]", value)
    checks = (problem(known[k], s, _join(path, k)) for k, s in wanted.items() if k in known)
    return next(filter(None, checks), "")


def _additional(value: object, wanted: Schema, path: str, schema: Schema) -> str:
    if not isinstance(value, dict):
        return ""
    named = schema.get("properties", {})
    items = cast("dict[str, object]", value).items()
    checks = (problem(v, wanted, f'{path or _ROOT}["{k}"]') for k, v in items if k not in named)
    return next(filter(None, checks), "")


def _items(value: object, wanted: Schema, path: str, _: Schema) -> str:
    if not isinstance(value, list):
        return ""
    items = enumerate(cast("list[object]", value))
    return next(filter(None, (problem(v, wanted, f"{path}[{i}]") for i, v in items)), "")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


_CHECKS = {
    "type": _type,
    "const": _const,
    "enum": _enum,
    "pattern": _pattern,
    "minimum": _minimum,
    "maximum": _maximum,
    "maxItems": _max_items,
    "required": _required,
    "properties": _properties,
    "additionalProperties": _additional,
    "items": _items,
}
