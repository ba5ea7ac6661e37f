"""`arkinfer bench`: what is measured, its table and its JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.artifacts import write_artifact

Ark = Callable[..., Any]


def test_json_has_stable_keys(ark: Ark, model: Path):
    result = ark("bench", model, "--lengths", "16,32", "--depths", "0,64", "--tokens", 8,
                 "--rounds", 2, "--threads", 1, "--json")  # fmt: skip
    assert (result.code, result.err) == (0, "")
    facts = json.loads(result.out)
    assert list(facts) == [
        "path", "backend", "threads", "section_bytes", "load_seconds", "rss", "rounds", "results",
    ]  # fmt: skip
    assert [(r["kind"], r["tokens"], r["depth"]) for r in facts["results"]] == [
        ("prefill", 16, 0), ("prefill", 32, 0), ("decode", 8, 0), ("decode", 8, 64),
    ]  # fmt: skip
    for row in facts["results"]:
        rate = row["tokens_per_second"]
        assert 0 < rate["min"] <= rate["median"] <= rate["max"]
        assert len(row["seconds"]) == 2
    assert 0 < facts["rss"]["before"] <= facts["rss"]["peak"]
    assert facts["rss"]["loaded"] <= facts["rss"]["peak"]
    assert (facts["path"], facts["backend"], facts["threads"]) == (str(model), "bigram", 1)


def test_the_table(ark: Ark, model: Path):
    out = ark("bench", model, "--quick", "--tokens", 4).out
    lines = out.splitlines()
    assert lines[0] == f"{model} on bigram, threads: as the backend likes, rounds: 3"
    assert lines[1].startswith("load    ")
    assert lines[2].startswith("memory  ")
    assert lines[4].split() == ["tokens", "depth", "tok/s", "slowest", "fastest"]
    assert [line.split()[:3] for line in lines[5:]] == [
        ["prefill", "128", "0"], ["decode", "4", "0"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (64, [("prefill", 64, 0), ("decode", 32, 0)]),
        (256, [("prefill", 128, 0), ("decode", 32, 0)]),
        (2048, [("prefill", 128, 0), ("prefill", 512, 0), ("decode", 32, 0), ("decode", 32, 1024)]),
    ],
)
def test_defaults_fit_the_context(
    ark: Ark, tmp_path: Path, site: Path, context: int, expected: list[tuple[str, int, int]]
):
    path = write_artifact(tmp_path / "c.ark", context=context)
    facts = json.loads(ark("bench", path, "--rounds", 1, "--json").out)
    assert [(r["kind"], r["tokens"], r["depth"]) for r in facts["results"]] == expected


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--lengths", "a,b"],
         '--lengths cannot be "a,b". Give whole numbers with commas: 128,512.'),
        (["--depths", ""], '--depths cannot be "". Give whole numbers with commas: 128,512.'),
        (["--lengths", "257"], "A prefill of 257 tokens at depth 0 does not fit. The context "
         "holds 256 tokens. Give shorter lengths or depths."),
        (["--depths", "250"], "A decode of 32 tokens at depth 250 does not fit. The context "
         "holds 256 tokens. Give shorter lengths or depths."),
        (["--rounds", "0"], "There cannot be 0 rounds. Give at least 1."),
        (["--tokens", "0"], "A number of tokens cannot be 0. Give at least 1."),
    ],
)  # fmt: skip
def test_requests_that_cannot_be_met(ark: Ark, model: Path, options: list[str], text: str):
    result = ark("bench", model, *options)
    assert (result.code, result.out, result.err) == (2, "", f"error: {text}\n")
