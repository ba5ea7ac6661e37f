"""Machines to examine: a real one, and folders that look like one."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from arkinfer.doctor.host import Host


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder for programs, to be put first on a PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


@pytest.fixture
def script(programs: Path) -> Callable[[str, str], Path]:
    """Makes a shell script there."""

    def make(name: str, body: str) -> Path:
        path = programs / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return make


@pytest.fixture
def make_host(tmp_path: Path, programs: Path) -> Callable[..., Host]:
    """A machine without files or programs of its own; `real=True` adds this one's programs."""

    def make(*, real: bool = False, seconds: float = 20.0, **environ: str) -> Host:
        root, temporary = tmp_path / "root", tmp_path / "tmp"
        root.mkdir(exist_ok=True)
        temporary.mkdir(exist_ok=True)
        path = f"{programs}{os.pathsep}{os.environ['PATH']}" if real else str(programs)
        facts = {"PATH": path, "TMPDIR": str(temporary), "HOME": str(tmp_path), **environ}
        return Host(root, facts, seconds, tmp_path)

    return make


@pytest.fixture
def library(tmp_path: Path) -> Callable[[str, str], Path]:
    """Compiles a shared library; returns the folder for LD_LIBRARY_PATH."""

    def make(name: str, source: str) -> Path:
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("there is no C compiler here")
        folder = tmp_path / "lib"
        folder.mkdir(exist_ok=True)
        (folder / "source.c").write_text(source)
        command = [compiler, "-shared", "-fPIC", "source.c", "-o", name]
        subprocess.run(command, cwd=folder, check=True)
        return folder

    return make
