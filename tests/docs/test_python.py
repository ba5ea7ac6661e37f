"""docs/python.md names what the public API has: parameters, fields, attributes, errors."""

from __future__ import annotations

import dataclasses
import inspect
import re

import pytest

import arkinfer
from arkinfer import errors
from arkinfer.compiler.build import BuildReport
from arkinfer.compiler.plan import Plan
from arkinfer.runtime.generation import Generation
from tests.docs.pages import ROOT, text_of

PAGE = text_of(ROOT / "docs" / "python.md")
PROSE = re.sub(r"^```.*?^```$", "", PAGE, flags=re.M | re.S)
WORDS = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", PROSE))))


def parameters(function: object) -> set[str]:
    return set(inspect.signature(function).parameters) - {"self"}


@pytest.mark.parametrize("function", ["build", "load"])
def test_parameters(function: str):
    part = PAGE.split(f"\n## {function}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|", part, re.M)
    assert sorted(rows) == sorted(parameters(getattr(arkinfer, function)))


def test_parameters_of_plan():
    (signature,) = re.findall(r"`arkinfer\.plan\((.+?)\)`", PAGE, re.S)
    named = set(re.findall(r"(?<!\")\b([a-z_]+)\b(?!\")", signature))
    assert named == parameters(arkinfer.plan)
    assert parameters(arkinfer.plan) <= parameters(arkinfer.build)


@pytest.mark.parametrize("method", ["generate", "chat", "chat_ids", "logits", "close"])
def test_methods(method: str):
    assert parameters(getattr(arkinfer.Engine, method)) | {method} <= WORDS


def test_fields():
    for made in (Plan, BuildReport):
        fields = {field.name for field in dataclasses.fields(made)}
        assert fields - WORDS == set()
    for made in (arkinfer.Engine, Generation):
        listed = re.search(r"Attributes:\n(.*?)\n\n", inspect.cleandoc(made.__doc__) + "\n\n", re.S)
        assert listed
        names = set(re.findall(r"^    (\w+):", listed[1], re.M))
        names |= {n for n in vars(made) if not n.startswith("_")}
        assert names - WORDS == set()


def test_errors():
    rows = dict(re.findall(r"^\| `(\w+Error)` \|.*\| (\d) \|$", PAGE, re.M))
    kinds = {
        name: str(kind.exit_code)
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.ArkError) and name != "ArkError"
    }
    assert rows == kinds
