"""`arkinfer bench compare`: artifacts in turns, saved runs, refusals and the gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.bench.runs import MACHINE, run, save

Ark = Callable[..., Any]


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs of which the second one is a tenth slower."""
    return save(tmp_path / "a.json", run()), save(tmp_path / "b.json", run(0.9))


def test_artifacts_in_turns(ark: Ark, model: Path, tmp_path: Path):
    saved, html = tmp_path / "c.json", tmp_path / "c.html"
    result = ark("bench", "compare", model, model, "--lengths", "16", "--depths", "9",
                 "--threads-b", 1, "--launches", 3, "--rounds", 2, "--confidence", 50,
                 "-o", saved, "--html", html, "--json")  # fmt: skip
    assert result.code == 0, result.err
    facts = json.loads(result.out)
    assert list(facts) == [
        "verdict", "a", "b", "confidence", "min_effect", "launches", "processes", "cases", "notes",
        "environment",
    ]  # fmt: skip
    assert (facts["a"]["threads"], facts["b"]["threads"]) == (None, 1)
    assert (facts["launches"], facts["confidence"], facts["min_effect"]) == (3, 50, 1)
    assert [(c["kind"], c["tokens"], c["depth"]) for c in facts["cases"]] == [
        ("prefill", 16, 0), ("decode", 16, 9),
    ]  # fmt: skip
    assert [[len(launch) for launch in c["seconds"]] for c in facts["cases"]] == [[2, 2, 2]] * 2
    assert json.loads(saved.read_text()) == facts
    assert "<svg" in html.read_text()


def test_the_table(ark: Ark, runs: tuple[Path, Path]):
    result = ark("bench", "compare", *runs)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [
        "A       m.ark, onnxruntime, threads: as the backend likes",
        "B       m.ark, onnxruntime, threads: as the backend likes",
        "",
        "         tokens  depth  A tok/s  B tok/s  B of A  at least  at most    B is",
        "prefill     128      0  1,166.6  1,049.9    90 %      90 %     90 %  slower",
        "decode       16      0    145.8    131.2    90 %      90 %     90 %  slower",
        "",
        "B is slower than A: by 10.0 % (9.6 … 10.4 %) in prefill 128, by 10.0 % (9.6 … 10.4 %) in "
        "decode at 0; 99 % confidence.",
    ]


def test_the_gate(ark: Ark, runs: tuple[Path, Path]):
    failed = ark("bench", "compare", *runs, "--max-slowdown", 5, "--json")
    assert failed.code == 3
    assert failed.err == "error: B is slower than A by more than 5 %.\n"
    assert json.loads(failed.out)["gate"] == {"max_slowdown": 5, "met": False}
    assert ark("bench", "compare", *runs, "--max-slowdown", 12).code == 0
    assert ark("bench", "compare", *reversed(runs), "--max-slowdown", 0).code == 0


def test_unlike_machines_are_refused(ark: Ark, runs: tuple[Path, Path], tmp_path: Path):
    other = replace(MACHINE, cpu="B").to_json()
    environment = {"before": other, "after": other, "disturbed": []}
    unlike = save(tmp_path / "c.json", run(environment=environment, threads=1))
    result = ark("bench", "compare", runs[0], unlike)
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        "error: The two runs cannot be compared, since their machines were not alike. CPU: A, B; "
        "threads: as the backend likes, 1. Measure both in one state of one machine, or say "
        "--allow-unlike.\n"
    )
    allowed = ark("bench", "compare", runs[0], unlike, "--allow-unlike")
    assert allowed.code == 0
    assert "note    not alike: CPU: A, B" in allowed.out


def test_few_launches_say_nothing_and_fail_no_gate(ark: Ark, tmp_path: Path):
    paths = [save(tmp_path / f"{n}.json", run(s, launches=1)) for n, s in enumerate((1, 0.5))]
    result = ark("bench", "compare", *paths, "--max-slowdown", 5)
    assert result.code == 0
    assert "note    the runs have 1 and 1 launches; measure both with --launches 6" in result.out
    assert result.out.splitlines()[-1] == (
        "Nothing can be said with confidence: there are too few launches."
    )


def test_requests_that_cannot_be_met(ark: Ark, model: Path, runs: tuple[Path, Path]):
    for arguments, text in [
        ((model, runs[0]), f'"{model}" and "{runs[0]}" cannot be compared. One is a saved run, the '
         "other one is to be run. Give two .ark files, or two saved runs."),
        ((model, model, "--launches", 3), "3 launches cannot give 99 % confidence in 2 cases. Each "
         "pair of processes is one observation, and so few agree by chance. Give at least "
         "--launches 9, or a lower --confidence."),
        ((model, model, "--rounds", 0), "There cannot be 0 rounds. Give at least 1."),
        ((*runs, "--confidence", 100), "The confidence cannot be 100 %. It is the share of runs "
         "without a false alarm. Give 50 up to 99.99."),
        ((model, "none.ark"), 'There is no file "none.ark". Check the path.'),
    ]:  # fmt: skip
        result = ark("bench", "compare", *arguments)
        assert (result.code, result.out) == (2, "")
        assert result.err == f"error: {text}\n" or "none.ark" in text, result.err
