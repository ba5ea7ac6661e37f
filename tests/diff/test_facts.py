"""Facts of manifests that differ, by their place."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from arkinfer.artifact import open_artifact
from arkinfer.diff.facts import Fact, differing_facts
from arkinfer.diff.wording import shown
from tests.runtime.artifacts import write_artifact


def facts(tmp_path: Path, **changes: Any) -> list[Fact]:
    paths = [write_artifact(tmp_path / "a.ark"), write_artifact(tmp_path / "b.ark", **changes)]
    with open_artifact(paths[0]) as a, open_artifact(paths[1]) as b:
        return differing_facts(a.manifest, b.manifest)


def test_the_same(tmp_path: Path):
    assert facts(tmp_path) == []


def test_every_place_is_named(tmp_path: Path):
    found = facts(
        tmp_path, quant="int4", context=128, chunk=4, tokens={"bos": None, "stop": [2]},
        requires={"numpy": ">=2"}, generation={"top_p": 0.9},
    )  # fmt: skip
    assert {fact.key: (fact.a, fact.b) for fact in found} == {
        "context": ("256", "128"),
        "quant": ('"none"', '"int4"'),
        "tokens.bos": ("1", "null"),
        "tokens.stop": ("[2, 3]", "[2]"),
        "generation.top_p": (None, "0.9"),
        "sections.bigram.requires.numpy": (None, '">=2"'),
        "sections.bigram.config.chunk": ("8", "4"),
    }


def test_what_products_take_is_a_fact(tmp_path: Path):
    with open_artifact(write_artifact(tmp_path / "a.ark")) as artifact:
        a, b = deepcopy(artifact.manifest), deepcopy(artifact.manifest)
    a["sections"][0]["activations"] = "int8"
    b["sections"][0]["activations"] = "int8, int16 in 3 of 11"
    assert differing_facts(a, b) == [
        Fact("sections.bigram.activations", '"int8"', '"int8, int16 in 3 of 11"')
    ]


def test_sections_that_are_in_one_only(tmp_path: Path):
    found = facts(tmp_path, backends=("bigram", "other"))
    assert found == [Fact("sections", '["bigram"]', '["bigram", "other"]')]


def test_how_facts_are_shown():
    assert [shown(text) for text in (None, '"int4"', "1", '"a\\"b"')] == [
        "-", "int4", "1", '"a\\"b"',
    ]  # fmt: skip
    long = shown("[" + "1, " * 200 + "1]")
    assert long.startswith("[1, 1, ")
    assert long.endswith("… (603 characters)")
    assert len(long) < 65
