"""What is said where no system for ARM can be made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.arm64.make_root import CHECKOUT


def make(folder: Path, programs: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.arm64.make_root", str(folder)]
    environ = {**os.environ, "PATH": str(programs), "PYTHONPATH": str(CHECKOUT)}
    return subprocess.run(
        command, cwd=CHECKOUT, env=environ, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("programs", "said"),
    [
        ({}, "there is no apt-get: this takes Debian's packages"),
        ({"apt-get": "echo 'E: no such source' >&2; exit 100"},
         "apt-get failed: E: no such source"),
        ({"qemu-aarch64": "", "apt-get": "exit 3"}, "apt-get failed: exit code 3"),
    ],
)  # fmt: skip
def test_the_reason(programs: dict[str, str], said: str, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    others = {"dpkg": "echo amd64", "dpkg-deb": ""} if programs else {}
    for name, body in {**others, **programs}.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    done = make(tmp_path / "root", folder)
    assert done.returncode == 1
    assert done.stderr == f"A system for arm64 cannot be made here: {said}.\n"
    assert [each.name for each in tmp_path.iterdir()] == ["bin"]
