"""A section with kernels for several instruction sets: what a file has, and what runs here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.artifacts import write_artifact

Ark = Callable[..., Any]


@pytest.fixture
def several(tmp_path: Path, site: Path) -> Path:
    tokens = {"bos": 1, "stop": []}
    return write_artifact(tmp_path / "v.ark", variants=("dotprod", "i8mm"), tokens=tokens)


def test_inspect_lists_them(ark: Ark, several: Path, model: Path):
    out = ark("inspect", several).out
    (row,) = [line for line in out.splitlines() if line.startswith("bigram ")]
    assert re.match(r"bigram +nothing +dotprod, i8mm +0 +0 B", row), row
    assert re.search(r"^section +requires +kernels for +activations ", out, re.MULTILINE)
    (section,) = json.loads(ark("inspect", several, "--json").out)["sections"]
    assert section["variants"] == ["dotprod", "i8mm"]
    (section,) = json.loads(ark("inspect", model, "--json").out)["sections"]
    assert section["variants"] == []


def test_run_says_which_one_runs(ark: Ark, several: Path, model: Path):
    asked = ("Why?", "--max-new-tokens", 2)
    said = ark("run", several, *asked, "--stats").err
    assert re.fullmatch(r"prompt: .*; answer: 2 tokens, [0-9.]+ tok/s; kernels for i8mm\n", said)
    assert "kernels" not in ark("run", model, *asked, "--stats").err
    assert json.loads(ark("run", several, *asked, "--json").out)["variant"] == "i8mm"
    assert json.loads(ark("run", model, *asked, "--json").out)["variant"] is None


def test_bench_says_which_one_it_measured(ark: Ark, several: Path, tmp_path: Path):
    saved = tmp_path / "run.json"
    out = ark("bench", several, "--quick", "--tokens", 2, "--rounds", 1, "-o", saved).out
    assert out.startswith(f"{several} on bigram, kernels for i8mm, threads: as the backend likes")
    assert json.loads(saved.read_text())["variant"] == "i8mm"
