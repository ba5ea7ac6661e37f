"""Temporary folders of compilers: gone in the end, whatever happens to their owners."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from arkinfer.backend.scratch import scratch_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_it_goes_with_its_context(temporary: Path):
    def fail() -> None:
        with scratch_folder() as folder:
            assert folder.parent == temporary
            assert folder.stat().st_mode & 0o777 == 0o700
            (folder / "deep").mkdir()
            (folder / "deep" / "kernels.o").write_bytes(b"x")
            raise ValueError("oops")

    with pytest.raises(ValueError, match="oops"):
        fail()
    assert os.listdir(temporary) == []


def test_one_in_use_is_left_alone(temporary: Path):
    with scratch_folder() as first, scratch_folder() as second:
        assert sorted(os.listdir(temporary)) == sorted([first.name, second.name])
    assert os.listdir(temporary) == []


def test_those_of_killed_processes_go_with_the_next(temporary: Path):
    script = (
        "import os, signal; from arkinfer.backend.scratch import scratch_folder\n"
        "with scratch_folder() as folder:\n"
        "    (folder / 'library.so').write_bytes(b'x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, timeout=60)
    assert done.returncode == -signal.SIGKILL
    (temporary / "arkinfer-mine.txt").write_text("mine")
    (temporary / "arkinfer-build-link").symlink_to(temporary)
    assert len(os.listdir(temporary)) == 3
    with scratch_folder():
        pass
    assert sorted(os.listdir(temporary)) == ["arkinfer-build-link", "arkinfer-mine.txt"]
