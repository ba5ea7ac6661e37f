"""The JSON schema checker, keyword by keyword."""

from __future__ import annotations

from typing import Any

import pytest

from arkinfer.artifact.schema import problem


@pytest.mark.parametrize(
    ("value", "schema", "text"),
    [
        (1, {"type": "integer"}, ""),
        (True, {"type": "integer"}, "the manifest must be an integer, not True"),
        (1.0, {"type": "integer"}, "the manifest must be an integer, not 1.0"),
        (1, {"type": "number"}, ""),
        (False, {"type": "number"}, "the manifest must be a number, not False"),
        ("a", {"type": ["integer", "null"]}, "the manifest must be an integer or null, not 'a'"),
        (None, {"type": ["integer", "null"]}, ""),
        ([], {"type": "object"}, "the manifest must be an object, not list"),
        ({}, {"type": "array"}, "the manifest must be a list, not dict"),
        (True, {"const": 1}, "the manifest must be 1, not True"),
        ("c", {"enum": ["a", "b"]}, "the manifest must be one of a, b, not 'c'"),
        ([], {"enum": ["a", "b"]}, "the manifest must be one of a, b, not list"),
        ("A", {"pattern": "^a$", "description": "small"}, "the manifest must be small, not 'A'"),
        ("a\n", {"pattern": "^a$"}, "the manifest must be text that matches ^a$, not 'a\\n'"),
        (-1, {"minimum": 0}, "the manifest must be at least 0, not -1"),
        (2, {"maximum": 1}, "the manifest must be at most 1, not 2"),
        ([1, 2], {"maxItems": 1}, "the manifest must have at most 1 items"),
        ({}, {"required": ["a"]}, "a is missing"),
        ({"a": {"b": ""}}, {"properties": {"a": {"properties": {"b": {"type": "null"}}}}},
         "a.b must be null, not ''"),
        ({"a": 1, "b": 2}, {"properties": {"a": {}}, "additionalProperties": {"maximum": 1}},
         'the manifest["b"] must be at most 1, not 2'),
        ({"a": [0, 5]}, {"properties": {"a": {"items": {"maximum": 1}}}},
         "a[1] must be at most 1, not 5"),
    ],
)  # fmt: skip
def test_sentences(value: object, schema: dict[str, Any], text: str):
    assert problem(value, schema) == text


def test_an_unknown_keyword_is_refused():
    with pytest.raises(KeyError):
        problem(1, {"multipleOf": 2})
