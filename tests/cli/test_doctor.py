"""`arkinfer doctor` as a user meets it: the real machine, files that run and files that do not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from arkinfer.artifact import Section
from tests.cli.conftest import Result
from tests.doctor.test_sections import ort, tvm, write

Ark = Callable[..., Result]


def test_this_machine(ark: Ark):
    result = ark("doctor", "--json")
    facts = json.loads(result.out)
    assert (result.code, facts["ok"]) == (0, True)
    assert list(facts) == ["ok", "summary", "gaps", "backend", "sections", "groups"]
    assert [group["title"] for group in facts["groups"]] == ["run", "build", "this machine", "disk"]
    runs, _, builds = facts["summary"].partition(", and builds for ")
    assert runs == "This machine runs artifacts by onnxruntime, reference and tvm"
    assert "cpu" in builds.replace(" and ", ", ").rstrip(".").split(", ")
    for group in facts["groups"]:
        for finding in group["findings"]:
            assert list(finding) == ["name", "state", "detail", "fix", "notes"]
            assert finding["state"] in ("ok", "missing", "broken", "not known")
            assert finding["state"] == "ok" or finding["detail"]


def test_a_file_that_runs(ark: Ark):
    result = ark("doctor", "demo")
    lines = result.out.splitlines()
    assert result.code == 0
    assert lines[0] == "demo.ark runs here by onnxruntime."
    assert lines[2] == "sections"
    assert re.fullmatch(r"  ok         onnxruntime +needs onnxruntime >=1\.23", lines[3])
    assert re.search(r"^  ok +memory +about .+ for 8,192 tokens of context, ", result.out, re.M)
    assert "build" not in result.out
    assert "\x1b" not in result.out


def test_a_file_that_does_not(ark: Ark, tmp_path: Path):
    path = write(tmp_path / "m.ark", tvm(platform="linux-riscv64"), ort(">=9"))
    result = ark("doctor", path)
    assert result.code == 4
    first = result.out.splitlines()[0]
    assert first.startswith("m.ark does not run here; tvm does not: ")
    assert "; onnxruntime does not: The artifact needs onnxruntime >=9" in first
    assert "fix: Build it for this machine: arkinfer build --target cpu --backend tvm" in result.out
    assert 'fix: Install it: pip install "onnxruntime>=9"' in result.out
    assert '2 gaps; what mends each stands below it, after "fix:".' in result.out


def test_json_of_a_file(ark: Ark, tmp_path: Path):
    path = write(tmp_path / "m.ark", ort(">=9"), tvm())
    facts = json.loads(ark("doctor", path, "--json").out)
    assert (facts["ok"], facts["backend"]) == (True, "tvm")
    assert [(s["backend"], s["runs"]) for s in facts["sections"]] == [
        ("onnxruntime", False), ("tvm", True),
    ]  # fmt: skip
    assert facts["sections"][0]["requires"] == {"onnxruntime": ">=9"}
    assert facts["groups"][0]["title"] == "sections"


def test_verbose_says_how_it_was_found_out(ark: Ark):
    plain = ark("doctor", "demo").out
    result = ark("doctor", "demo", "--verbose").out
    assert " | " not in plain
    assert re.search(r"\| memory available: [\d.]+ GiB", result)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["nothing.ark"], 2, 'There is no file "nothing.ark". Check the path.'),
        (["--backend", "tvm"], 2, "--backend is about a file. Name an .ark file."),
        (["demo", "--backend", "tensorrt"], 2,
         'The artifact has no section for the backend "tensorrt"'),
        (["demo", "--context", "9000"], 2, "The context cannot be 9000 tokens. The artifact was "
         "built for 8192. Give a number from 1 to 8192."),
    ],
)  # fmt: skip
def test_requests_that_cannot_be_met(ark: Ark, words: list[str], code: int, text: str):
    result = ark("doctor", *words)
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith(f"error: {text}")


def test_a_file_of_another_version_or_none_at_all(ark: Ark, tmp_path: Path):
    """The words are those of the reader: which version is needed, and how to get it."""
    path = tmp_path / "text.ark"
    path.write_text("not an artifact")
    assert ark("doctor", path).code == 1
    newer = write(tmp_path / "m.ark", tvm())
    data = newer.read_bytes().replace(b'"format": 1,', b'"format": 7,')
    newer.write_bytes(data)
    result = ark("doctor", newer)
    assert (result.code, "Install" in result.err or "damaged" in result.err) == (1, True)


def test_a_report(ark: Ark, tmp_path: Path):
    result = ark("doctor", "--report", tmp_path / "r.json", "--json")
    assert result.code == 0
    assert json.loads(result.out)["backend"] == "onnxruntime"
    lines = result.err.splitlines()
    assert lines[0] == "note: no file was named, so that the report is about demo"
    assert lines[-1].startswith(f"note: the report is in {tmp_path}/r.json; not to be had here: ")
    facts = json.loads((tmp_path / "r.json").read_text())
    assert facts["finished"] is True
    assert facts["gpu"] == {"missing": "the file has no section for a GPU"}
    verified = facts["cpu"]["verify"]["answer"]
    assert {c["name"]: c["ok"] for c in verified["checks"]} == {
        "integrity": True, "signature": None, "reference": True, "values": True, "source": True,
    }  # fmt: skip


def test_a_report_of_a_file_that_does_not_run(ark: Ark, tmp_path: Path):
    """It is about what is there all the same, and the exit code stays what it was."""
    path = write(tmp_path / "m.ark", ort(">=9"))
    assert ark("doctor", path, "--report", tmp_path / "r.json").code == 4
    facts = json.loads((tmp_path / "r.json").read_text())
    assert facts["cpu"]["missing"].startswith("onnxruntime does not run here: The artifact needs ")
    assert (facts["diagnosis"]["ok"], facts["finished"]) == (False, True)


def test_another_device_is_named_by_its_option(ark: Ark, tmp_path: Path):
    path = write(tmp_path / "m.ark", Section("tensorrt", {}, {}, ()), ort(), tvm())
    said = ark("doctor", path).out
    assert said.startswith("m.ark runs here with --device cpu only; tensorrt does not: ")
    assert re.search(r"^  ok +cache +.+ free in ", said, re.M)  # where an engine would be kept
    asked = ark("doctor", path, "--device", "gpu")
    assert (asked.code, asked.out.splitlines()[0][:24]) == (4, "m.ark does not run here;")
    assert ark("doctor", path, "--device", "cpu").code == 0
