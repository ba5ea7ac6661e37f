"""Programs that fail, crash, hang, flood or leave children behind, and what is said of them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from arkinfer.doctor.process import KEPT, Outcome, run


def sh(body: str, seconds: float = 20.0) -> Outcome:
    return run(["/bin/sh", "-c", body], seconds=seconds, environ=os.environ)


def ended(pid: int) -> bool:
    """Whether a process is gone within five seconds."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_a_program_that_ends_well():
    assert sh("echo out; echo err >&2") == Outcome(0, "out\n", "err\n")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("exit 3", "it failed with exit code 3"),
        ("kill -SEGV $$", "it crashed (SIGSEGV)"),
        ("kill -ABRT $$", "it crashed (SIGABRT)"),
    ],
)
def test_a_program_that_does_not(body: str, problem: str):
    outcome = sh(body)
    assert (outcome.ok, outcome.problem, outcome.hung) == (False, problem, False)


def test_a_program_that_hangs_is_ended_with_its_children(tmp_path: Path):
    pid = tmp_path / "pid"
    began = time.monotonic()
    outcome = sh(f"sleep 60 & echo $! > {pid}; echo begun; sleep 60", seconds=0.5)
    assert time.monotonic() - began < 10
    assert (outcome.problem, outcome.hung) == ("it did not end within 0.5 s", True)
    assert outcome.out == "begun\n"
    assert ended(int(pid.read_text()))


def test_a_child_that_outlives_its_parent_is_ended():
    began = time.monotonic()
    assert sh("sleep 60 & echo done").out == "done\n"
    assert time.monotonic() - began < 10


def test_a_flood_is_drained_and_its_end_kept():
    outcome = sh("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done")
    assert outcome.ok
    assert len(outcome.out) == KEPT
    assert outcome.out.endswith("line 19999\n")


def test_a_program_that_cannot_be_started(tmp_path: Path):
    plain = tmp_path / "plain"
    plain.write_text("text")
    for path, reason in ((tmp_path / "no", "No such file or directory"),
                         (plain, "Permission denied")):  # fmt: skip
        outcome = run([path], seconds=1.0, environ={})
        assert outcome.problem == f"it could not be started: {reason}"


def test_the_complaint_is_the_line_that_names_the_error():
    said = "In file included\nprobe.c:1: fatal error: math.h\ncollect2: ld returned 1\n"
    assert Outcome(1, "", said).complaint == "probe.c:1: fatal error: math.h"
    assert Outcome(1, "", "a\nb\n").complaint == "b"
    assert Outcome(1, "x", "").complaint == ""


def test_nothing_is_read_from_the_terminal():
    assert sh("read line; echo got $line").out == "got\n"
