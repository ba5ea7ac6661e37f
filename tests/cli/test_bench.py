"""`arkinfer bench`: what is measured, its table, its JSON and its page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arkinfer.bench import measure
from tests.runtime.artifacts import write_artifact

Ark = Callable[..., Any]


def test_json_has_stable_keys(ark: Ark, model: Path, tmp_path: Path):
    saved, html = tmp_path / "run.json", tmp_path / "run.html"
    result = ark("bench", model, "--lengths", "16,32", "--depths", "0,64", "--tokens", 8,
                 "--launches", 2, "--rounds", 2, "--threads", 1, "-o", saved, "--html", html,
                 "--json")  # fmt: skip
    assert result.code == 0, result.err
    facts = json.loads(result.out)
    assert list(facts) == [
        "path", "digest", "backend", "threads", "section_bytes", "variant", "launches", "rounds",
        "first_token", "load", "rss", "small_pages", "results", "environment",
    ]  # fmt: skip
    assert [(r["kind"], r["tokens"], r["depth"]) for r in facts["results"]] == [
        ("prefill", 16, 0), ("prefill", 32, 0), ("decode", 8, 0), ("decode", 8, 64),
    ]  # fmt: skip
    for row in facts["results"]:
        rate = row["tokens_per_second"]
        order = [rate[k] for k in ("min", "lower_quartile", "median", "upper_quartile", "max")]
        assert order == sorted(order)
        assert order[0] > 0
        assert [len(launch) for launch in row["seconds"]] == [2, 2]
    assert 0 < facts["rss"]["before"] <= facts["rss"]["loaded"] <= facts["rss"]["peak"]
    assert (facts["path"], facts["backend"], facts["threads"]) == (str(model), "bigram", 1)
    assert list(facts["environment"]) == ["before", "after", "disturbed"]
    assert facts["environment"]["before"]["python"]
    assert json.loads(saved.read_text()) == facts
    assert html.read_text().count("<svg") == 2


def test_the_table(ark: Ark, model: Path):
    out = ark("bench", model, "--quick", "--tokens", 4).out
    lines = out.splitlines()
    assert lines[0] == f"{model} on bigram, threads: as the backend likes, launches: 1 of 3 rounds"
    assert lines[1].startswith("first   ")
    assert lines[2].startswith("load    ")
    assert lines[3].startswith("memory  ")
    assert lines[4].startswith("machine ")
    start = lines.index("") + 1
    assert lines[start].split()[:3] == ["tokens", "depth", "tok/s"]
    assert [line.split()[:3] for line in lines[start + 1 :]] == [
        ["prefill", "128", "0"], ["decode", "4", "0"],
    ]  # fmt: skip


def test_a_file_in_small_pages_is_told(ark: Ark, model: Path, monkeypatch: pytest.MonkeyPatch):
    """Whether it is, `tests/artifact/test_pages.py` sees; one process of several is enough."""
    real = measure.measure

    def found(*args: Any, **options: Any) -> measure.Measured:
        measured = real(*args, **options)
        assert [facts["small_pages"] for facts in measured.ready] == [False, False]
        measured.ready[1]["small_pages"] = True
        return measured

    monkeypatch.setattr(measure, "measure", found)
    options = ("--quick", "--tokens", 4, "--launches", 2)
    assert ark("bench", model, *options).out.splitlines()[4] == (
        f"pages   {model} is held in small pages, as files are that were just copied; "
        f'"arkinfer prepare {model}", while nothing runs it, makes decoding faster'
    )


@pytest.mark.parametrize(
    ("context", "options", "expected"),
    [
        (64, [], [("prefill", 64, 0), ("decode", 32, 0)]),
        (2048, [], [("prefill", 128, 0), ("prefill", 512, 0), ("decode", 32, 0),
                    ("decode", 32, 1024)]),
        (1024, ["--curve"], [*(("prefill", 32 << n, 0) for n in range(6)), ("decode", 32, 0),
                             ("decode", 32, 512)]),
    ],
)  # fmt: skip
def test_defaults_fit_the_context(
    ark: Ark,
    tmp_path: Path,
    site: Path,
    context: int,
    options: list[str],
    expected: list[tuple[str, int, int]],
):
    path = write_artifact(tmp_path / "c.ark", context=context, chunk=512)
    result = ark("bench", path, "--rounds", 1, "--launches", 1, "--json", *options)
    facts = json.loads(result.out)
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
        (["--launches", "0"], "There cannot be 0 launches. Give at least 1."),
        (["--tokens", "0"], "A number of tokens cannot be 0. Give at least 1."),
        (["--threads", "0"], "threads cannot be 0. Give at least 1."),
        (["--backend", "x"], 'The artifact has no section for the backend "x". It was built for: '
         "bigram. Name one of these, or build it for that backend."),
    ],
)  # fmt: skip
def test_requests_that_cannot_be_met(ark: Ark, model: Path, options: list[str], text: str):
    result = ark("bench", model, *options)
    assert (result.code, result.out, result.err) == (2, "", f"error: {text}\n")


def test_a_place_that_cannot_be_written_is_told_before_the_work(ark: Ark, model: Path):
    result = ark("bench", model, "-o", "none/x.json", "--rounds", "1000000")
    assert result.code == 2
    assert result.err.startswith('error: "none/x.json" cannot be written. There is no folder "')


def test_help_knows_both_commands(ark: Ark):
    assert ark("bench", "--help").out.startswith("Usage: arkinfer bench [OPTIONS] ")
    assert "arkinfer bench compare --help" in ark("bench", "--help").out
    assert ark("bench", "compare", "--help").out.startswith(
        "Usage: arkinfer bench compare [OPTIONS] "
    )
    missing = ark("bench")
    assert (missing.code, missing.err) == (
        2, "error: Missing argument 'FILE'. See \"arkinfer bench --help\".\n",
    )  # fmt: skip
