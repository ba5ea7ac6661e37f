"""docs/passes.md: every pass is listed, and the example gives what the page shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from arkinfer.cli.opt import main
from arkinfer.passes import NAMES

PAGE = (Path(__file__).parents[2] / "docs" / "passes.md").read_text("utf-8")


def test_every_pass_is_listed() -> None:
    listed = re.findall(r"^\| `([a-z-]+)` \|", PAGE, flags=re.M)
    assert sorted(listed) == sorted(NAMES)


def test_the_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given, shown = re.findall(r"```\n(module\n.*?)```", PAGE, flags=re.S)
    (command,) = re.findall(r"`arkinfer-opt (step\.ir .*)` prints", PAGE)
    monkeypatch.chdir(tmp_path)
    Path("step.ir").write_text(given)
    assert main(shlex.split(command)) == 0
    assert capsys.readouterr().out == shown
