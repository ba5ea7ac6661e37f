"""The whole examination: this machine, and checks that break down."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from arkinfer.doctor import examine as room
from arkinfer.doctor.examine import CHECKS, examine
from arkinfer.doctor.finding import Finding, Group
from arkinfer.doctor.host import Host


def ok(*names: str) -> tuple[Callable[[Host], list[Finding]], ...]:
    return (lambda host: [Finding(name, "ok") for name in names],)


def test_one_sentence_says_what_runs_and_builds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(CHECKS, "run", ok("onnxruntime", "tvm"))
    monkeypatch.setitem(CHECKS, "build", ok("packages", "target cpu", "C for x86_64"))
    monkeypatch.setitem(CHECKS, "this machine", ok())
    monkeypatch.setitem(CHECKS, "disk", ok())
    found = examine(Host())
    assert (
        found.summary == "This machine runs artifacts by onnxruntime and tvm, and builds for cpu."
    )
    assert (found.ok, found.gaps) == (True, 0)
    monkeypatch.setitem(CHECKS, "build", ok())
    assert examine(Host()).summary.endswith("by onnxruntime and tvm, and builds nothing.")
    monkeypatch.setitem(CHECKS, "run", (lambda host: [Finding("tvm", "broken")],))
    found = examine(Host())
    assert (found.summary, found.ok, found.gaps) == ("Nothing runs on this machine.", False, 1)


def test_a_check_that_breaks_down_does_not_silence_the_others(monkeypatch: pytest.MonkeyPatch):
    def broken(host: Host) -> list[Finding]:
        raise ZeroDivisionError("oh")

    monkeypatch.setitem(CHECKS, "run", (broken, *ok("tvm")))
    (group,) = room._run_checks(Host(), {"run": CHECKS["run"]})
    assert [(f.state, f.detail) for f in group.findings] == [
        ("not known", "the check broke down: ZeroDivisionError('oh')"), ("ok", ""),
    ]  # fmt: skip


def test_a_gap_is_what_wants_mending():
    findings = [
        Finding("a", "ok", fix="x"), Finding("b", "missing"), Finding("c", "missing", fix="x"),
        Finding("d", "broken"), Finding("e", "not known"), Finding("f", "not known", fix="x"),
    ]  # fmt: skip
    assert [f.name for f in Group("g", findings).gaps] == ["c", "d", "f"]
