"""The command line on the bigram model: in this process, in its own, and on a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from arkinfer.cli import main
from tests.runtime.artifacts import write_artifact, write_plugin

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Result:
    """What a command line gave."""

    code: int
    out: str
    err: str


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with the plug-in that runs bigram models."""
    folder = write_plugin(tmp_path / "site")
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def model(tmp_path: Path, site: Path) -> Path:
    """An artifact that never stops by itself."""
    return write_artifact(tmp_path / "m.ark", tokens={"bos": 1, "stop": []})


@pytest.fixture
def ark(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs a command line in this process."""

    def run(*args: object) -> Result:
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return run


@pytest.fixture
def environment(site: Path) -> dict[str, str]:
    path = [str(site), str(ROOT), str(ROOT / "backends")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "TERM": "dumb"}


@pytest.fixture
def process(environment: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a command line in a process of its own."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*args: object, **options: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "arkinfer", *map(str, args)]
        pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
        settings = {**pipes, "env": environment, **options}
        started.append(subprocess.Popen(command, **settings))
        return started[-1]

    yield start
    for one in started:
        if one.poll() is None:
            one.kill()
        one.communicate()
