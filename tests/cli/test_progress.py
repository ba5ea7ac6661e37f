"""Progress on standard error: silent while short, a line now and then, a live one on terminals."""

from __future__ import annotations

import sys
import time

import pytest

import arkinfer.cli.progress as progress_module


def test_long_tasks_say_how_far_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    for live in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda live=live: live, raising=False)
        progress = progress_module.Progress("Verifying big.ark")
        for done in range(1, 9):
            now[0] += 0.5
            progress(done, 8)
        progress.end()
        err = capsys.readouterr().err
        if live:
            assert err.startswith("\rVerifying big.ark: 50 %, about 2 s left\x1b[K\r")
            assert err.endswith("\r\x1b[K")
        else:
            assert err.splitlines() == [
                "Verifying big.ark: 50 %, about 2 s left",
                "Verifying big.ark: 100 %, about 0 s left",
            ]


def test_short_tasks_say_nothing(capsys: pytest.CaptureFixture[str]):
    progress = progress_module.Progress("Reading")
    progress(1, 2)
    progress.end()
    with progress_module.announced("Loading m.ark"):
        pass
    assert capsys.readouterr().err == ""


def test_what_takes_long_is_announced(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(progress_module, "_INTERVAL", 0.01)
    with progress_module.announced("Loading m.ark"):
        time.sleep(0.2)
    assert capsys.readouterr().err == "Loading m.ark …\n"
