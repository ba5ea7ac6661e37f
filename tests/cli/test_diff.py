"""`arkinfer diff`: what it says, its page, and its exit codes, which are those of diff(1)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Result
from tests.runtime.artifacts import write_artifact

Ark = Callable[..., Result]


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return write_artifact(tmp_path / "o.ark", seed=1, tokens={"bos": 1, "stop": []})


def test_the_same_contents(ark: Ark, model: Path, tmp_path: Path):
    copy = tmp_path / "copy.ark"
    copy.write_bytes(model.read_bytes())
    result = ark("diff", model, copy)
    assert (result.code, result.out, result.err) == (0, "They have the same contents.\n", "")
    facts = json.loads(ark("diff", model, copy, "--json").out)
    assert (facts["same"], facts["manifest"], facts["behaviour"]) == (True, [], None)


def test_they_differ(ark: Ark, model: Path, other: Path):
    result = ark("diff", model, other)
    assert (result.code, result.err) == (1, "")
    lines = result.out.splitlines()
    assert lines[0] == "They differ in 1 fact."
    assert "sections.bigram.config.seed  0  1" in result.out
    assert "weights: 0 the same" in result.out
    assert "\nanswers\n" in result.out
    assert "\x1b" not in result.out


def test_without_running(ark: Ark, model: Path, other: Path):
    result = ark("diff", model, other, "--no-run")
    assert (result.code, "answers" in result.out) == (1, False)


def test_json_has_stable_keys(ark: Ark, model: Path, other: Path):
    result = ark("diff", model, other, "--json")
    facts = json.loads(result.out)
    assert result.code == 1
    assert list(facts) == [
        "a", "b", "same", "manifest", "graph", "weights", "groups", "entries", "behaviour",
    ]  # fmt: skip
    assert facts["manifest"] == [{"key": "sections.bigram.config.seed", "a": "0", "b": "1"}]
    assert list(facts["behaviour"]) == ["backends", "tokens", "mean_kl", "agreement", "prompts"]
    assert list(facts["behaviour"]["prompts"][0]) == [
        "name", "tokens", "kl", "agree", "parts_at", "answers",
    ]  # fmt: skip


def test_a_page(ark: Ark, model: Path, other: Path, tmp_path: Path):
    page = tmp_path / "diff.html"
    assert ark("diff", model, other, "--html", page).code == 1
    text = page.read_text()
    assert "<svg" in text
    assert "They differ in 1 fact." in text
    assert "http://" not in text
    assert "https://" not in text


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["{model}", "nothing.ark"], 2, 'There is no file "nothing.ark". Check the path.'),
        (["{text}", "{model}"], 2, '"{text}" is not an .ark file.'),
        (["{model}", "{other}", "--html", "no/such/x.html"], 2, '"no/such/x.html" cannot be'),
        (["{model}"], 2, "Missing argument 'B'."),
    ],
)  # fmt: skip
def test_trouble_is_not_a_difference(
    ark: Ark, model: Path, other: Path, tmp_path: Path, words: list[str], code: int, text: str
):
    """A damaged file would exit with 1 elsewhere, which says here that the files differ."""
    plain = tmp_path / "text.ark"
    plain.write_text("text")
    names = {"model": model, "other": other, "text": plain}
    result = ark("diff", *(word.format(**names) for word in words))
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith(f"error: {text.format(**names)}")
    as_json = ark("diff", *(word.format(**names) for word in words), "--json")
    assert as_json.code == code
    assert list(json.loads(as_json.out)) == ["error"]


def test_names_of_foreign_files_do_not_steer_the_terminal(ark: Ark, tmp_path: Path, site: Path):
    paths = [
        write_artifact(tmp_path / f"{i}.ark", generation={}, quant=f"\x1b[31m<b>{i}")
        for i in range(2)
    ]
    page = tmp_path / "p.html"
    result = ark("diff", *paths, "--no-run", "--html", page)
    assert result.code == 1
    assert "\x1b" not in result.out
    assert "<b>" not in page.read_text()
