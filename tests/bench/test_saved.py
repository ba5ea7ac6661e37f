"""Saved runs: what is read, what is refused, and what two of them say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from arkinfer.bench.compare import Rule, verdict
from arkinfer.bench.saved import compare_saved, read_saved, too_few, unlike, worth_noting
from arkinfer.errors import ArkError, UsageError
from tests.bench.runs import MACHINE, run, save


def read(folder: Path, *facts: dict[str, Any]) -> list[Any]:
    return [read_saved(save(folder / f"{n}.json", f)) for n, f in enumerate(facts)]


def test_what_two_runs_say(tmp_path: Path):
    a, b = read(tmp_path, run(), run(0.9))
    found = compare_saved(a, b, Rule())
    assert verdict(found) == (
        "B is slower than A: by 10.0 % (9.6 … 10.4 %) in prefill 128, by 10.0 % (9.6 … 10.4 %) in "
        "decode at 0; 99 % confidence."
    )
    assert found[0].a == pytest.approx(128 / 0.11, rel=0.01)
    assert verdict(compare_saved(a, a, Rule())) == (
        "No difference above 0.4 % is seen; 99 % confidence."
    )
    assert unlike(a, b) == worth_noting(a, b) == []
    assert too_few(a, b, found) is None


def test_too_few_launches(tmp_path: Path):
    a, b = read(tmp_path, run(), run(0.5, launches=3))
    found = compare_saved(a, b, Rule())
    assert {d.verdict for d in found} == {"unknown"}
    assert found[0].speed.middle == pytest.approx(0.5, rel=0.01)
    assert too_few(a, b, found) == (
        "the runs have 6 and 3 launches; measure both with --launches 6, or give the two .ark files"
    )


def test_only_what_both_have_is_compared(tmp_path: Path):
    facts = run()
    a, b = read(tmp_path, facts, run(results=facts["results"][1:]))
    assert [d.case.kind for d in compare_saved(a, b, Rule())] == ["decode"]
    other = [{**facts["results"][0], "tokens": 64}]
    a, b = read(tmp_path, facts, run(results=other))
    with pytest.raises(UsageError) as caught:
        compare_saved(a, b, Rule())
    assert str(caught.value) == (
        "The two runs have no case in common. A has prefill 128, decode at 0 (16); B has prefill "
        "64. Measure both with the same --lengths, --depths and --tokens."
    )


def test_unlike_machines(tmp_path: Path):
    slow = replace(MACHINE, governors=("powersave",), kernel="Linux 9").to_json()
    where = {"before": slow, "after": slow, "disturbed": ["heat slowed it once"]}
    a, b = read(tmp_path, run(), run(environment=where, threads=1, backend="tvm"))
    assert unlike(a, b) == [
        "governor: performance, powersave",
        "threads: as the backend likes, 1",
        f"{tmp_path}/1.json: heat slowed it once",
    ]
    assert worth_noting(a, b) == ["kernel: not measured, Linux 9", "backend: onnxruntime, tvm"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Reason: it is not JSON: Expecting value: line 1 column 1 (char 0)"),
        ("[1]", "Input should be a valid dictionary or instance of _File"),
        ("{}", "path: Field required"),
        ("[" * 100_000, ""),
        ('{"path": 1e999}', "Reason: it has a number beyond all bounds"),
        ('{"path": 1}', "path: Input should be a valid string"),
        ("\xff\xfe", ""),
    ],
)
def test_files_that_are_no_saved_runs(tmp_path: Path, text: str, why: str):
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError) as caught:
        read_saved(path)
    message = str(caught.value)
    assert message.startswith(f'"{path}" is not a saved run. {why}')
    assert message.endswith("Make one with: arkinfer bench model.ark -o run.json.")


@pytest.mark.parametrize(
    "change",
    [
        {"results": []},
        {"results": [{"kind": "prefill", "tokens": 0, "depth": 0, "seconds": [[1.0]]}]},
        {"results": [{"kind": "prefill", "tokens": 1, "depth": 0, "seconds": [[]]}]},
        {"results": [{"kind": "prefill", "tokens": 1, "depth": 0, "seconds": [[0.0]]}]},
        {"results": [{"kind": "prefill", "tokens": 1, "depth": 0, "seconds": [[float("nan")]]}]},
        {"results": [{"kind": "prefill", "tokens": 1, "depth": 0, "seconds": [[1e300]]}]},
        {"results": [{"kind": "prefill", "tokens": 1, "depth": 0, "seconds": [[1.0]] * 201}]},
        {"results": [{"kind": "sing", "tokens": 1, "depth": 0, "seconds": [[1.0]]}]},
        {"environment": {"before": {"load": "high"}, "after": {}, "disturbed": []}},
        {"environment": None},
    ],
)
def test_damaged_runs(tmp_path: Path, change: dict[str, Any]):
    with pytest.raises(UsageError, match="is not a saved run"):
        read_saved(save(tmp_path / "x.json", run(**change)))


def test_no_such_file(tmp_path: Path):
    with pytest.raises(ArkError) as caught:
        read_saved(tmp_path / "none.json")
    assert str(caught.value) == f'There is no file "{tmp_path}/none.json". Check the path.'
