"""Progress on standard error: silent while short, a line now and then, a live one on terminals."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable

import pytest

import arkinfer.cli.progress as progress_module
from arkinfer.cli.progress import Progress, announced, say
from arkinfer.cli.teller import Teller
from arkinfer.compiler.progress import Progress as Moment
from arkinfer.compiler.stages import Stages


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything a hundred times as often."""
    monkeypatch.setattr(progress_module, "_FIRST", 0.02)
    monkeypatch.setattr(progress_module, "_LIVE", 0.005)
    monkeypatch.setattr(progress_module, "_PAUSES", (0.02, 0.05, 0.1, 0.3))


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_a_line_says(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    with Progress("Verifying big.ark") as progress:
        assert progress.line(104) == "Verifying big.ark: 4 s so far; how long it takes is not known"
        now[0] = 105  # it began late: what is left is judged by what was done since
        progress(0, 8)
        assert progress.line(106) == "Verifying big.ark: 0 %"
        progress(2, 8)
        assert progress.line(107) == "Verifying big.ark: 25 %, about 6 s left"
        assert progress.line(405) == "Verifying big.ark: 25 %, about 15 min left"
        assert progress.line(100_105).endswith("25 %, about 83 h 20 min left")
    now[0] = 100.0
    with Progress("Tracing", expected=20) as progress:
        assert progress.line(104) == "Tracing: 4 s so far, about 16 s left"
        assert progress.line(150) == "Tracing: 50 s so far, about 0 s left"


@pytest.mark.usefixtures("hurried")
def test_the_steps_of_a_stage_are_one_task(capsys: pytest.CaptureFixture[str]):
    told: list[Moment] = []
    stages = Stages(told.append, None)
    stages.start("compiling for tvm")
    stages.step("compiling kernels for neon", 0, 2)
    stages.step("compiling kernels for dotprod", 1, 2)
    stages.step("compiling kernels for host", 0, 1)
    teller = Teller()
    for moment in told[:2]:
        teller(moment)
    time.sleep(0.1)
    teller(told[2])
    time.sleep(0.2)
    teller.end()
    lines = list(dict.fromkeys(capsys.readouterr().err.splitlines()))
    assert lines == [
        "Compiling kernels for neon (1 of 2): 0 s so far; how long it takes is not known",
        "Compiling kernels for dotprod (2 of 2): 50 %",
    ]
    assert told[3].step == "compiling kernels for host"


@pytest.mark.usefixtures("hurried")
def test_a_task_that_says_nothing_is_told_about_at_growing_intervals(
    capsys: pytest.CaptureFixture[str],
):
    with announced("Loading m.ark"):
        time.sleep(0.6)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 6  # after 0.02, 0.04, 0.09, 0.19, 0.49 seconds
    assert set(lines) == {"Loading m.ark: 0 s so far; how long it takes is not known"} or (
        lines[-1].startswith("Loading m.ark: ")
    )


@pytest.mark.usefixtures("hurried")
def test_a_terminal_has_one_line_which_goes_away(monkeypatch: pytest.MonkeyPatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("Verifying big.ark") as progress:
        progress(1, 4)
        wait_for(lambda: terminal.getvalue().count("\r") > 3)
    text = terminal.getvalue()
    assert text.startswith("\rVerifying big.ark: 25 %\x1b[K\r")
    assert text.endswith("\r\x1b[K")
    assert "\n" not in text
    time.sleep(0.05)
    assert terminal.getvalue() == text


@pytest.mark.usefixtures("hurried")
def test_a_task_that_is_through_is_silent(capsys: pytest.CaptureFixture[str]):
    with Progress("Reading the prompt") as progress:
        progress(4, 4)
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("hurried")
def test_nobody_listens(monkeypatch: pytest.MonkeyPatch):
    gone = io.StringIO()
    monkeypatch.setattr(sys, "stderr", gone)
    with Progress("Reading") as progress:
        gone.close()
        progress(1, 4)
        time.sleep(0.1)


def test_short_tasks_say_nothing(capsys: pytest.CaptureFixture[str]):
    progress = Progress("Reading")
    progress(1, 2)
    progress.end()
    progress.end()
    with announced("Loading m.ark"):
        pass
    assert capsys.readouterr().err == ""


def test_a_note_stays(capsys: pytest.CaptureFixture[str]):
    say("The cache is full.")
    assert capsys.readouterr().err == "note: The cache is full.\n"
