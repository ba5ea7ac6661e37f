"""Builds that are asked to end, and two builds of one file at the same time."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from arkinfer.compiler.build import build
from arkinfer.compiler.cache import Cache
from arkinfer.compiler.stopped import told_if_stopped

ROOT = Path(__file__).parents[2]
SLOW = """
import sys, time
from arkinfer.compiler import weights
real = weights.round_to_nearest
def slow(*args, **options):
    print("quantizing", flush=True)
    time.sleep(0.2)
    return real(*args, **options)
weights.round_to_nearest = slow
from arkinfer.cli import main
sys.exit(main(sys.argv[1:]))
"""
COMPILING = """
import sys
from arkinfer_tvm import works
real = works.build_library
def build_library(*args):
    print("compiling", flush=True)
    return real(*args)
works.build_library = build_library
from arkinfer.cli import main
sys.exit(main(sys.argv[1:]))
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(traced: Path) -> Iterator[Start]:
    """Starts a build that takes its time; it has begun to quantize."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "backends")])
    started: list[subprocess.Popen[str]] = []

    def run(*options: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SLOW, "build", str(traced), "--backend", "onnxruntime"]
        command += map(str, options)
        started.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env={**os.environ, "PYTHONPATH": path})
        )  # fmt: skip
        assert started[-1].stdout is not None
        assert started[-1].stdout.readline() == "quantizing\n"
        return started[-1]

    yield run
    for one in started:
        if one.poll() is None:
            one.kill()
        one.communicate()


def said(err: str) -> list[str]:
    """What stays on standard error, without lines of progress."""
    return [line for line in err.splitlines() if not re.search(r": (\d+ %|.* so far)", line)]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_build_that_is_asked_to_end_leaves_nothing(
    start: Start, tmp_path: Path, own_cache: Path, number: signal.Signals, code: int
):
    (tmp_path / "m.ark").write_bytes(b"an old file")
    running = start("-o", tmp_path / "m.ark")
    assert len(os.listdir(tmp_path)) == 2
    running.send_signal(number)
    _, err = running.communicate(timeout=60)
    assert running.returncode == code
    left = f'"{tmp_path / "m.ark"}" was not written; what had that name before is as it was'
    goes_on = "The same command goes on from what is in the cache"
    assert said(err) == ([f"stopped: {left}. {goes_on}."] if number == signal.SIGINT else [])
    assert os.listdir(tmp_path) == ["m.ark"]
    assert (tmp_path / "m.ark").read_bytes() == b"an old file"
    assert os.listdir(own_cache / "tmp") == os.listdir(own_cache / "builds") == []


def test_ctrl_c_while_kernels_are_compiled(traced: Path, tmp_path: Path):
    """The terminal tells every process of the build; nothing but one line comes of it."""
    pytest.importorskip("tvm")
    running = subprocess.Popen(
        [sys.executable, "-c", COMPILING, "build", str(traced), "-o", "m.ark"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "backends")])},
        start_new_session=True,
    )  # fmt: skip
    assert running.stdout is not None
    assert running.stdout.readline() == "compiling\n"
    time.sleep(0.3)
    os.killpg(running.pid, signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert said(err) == [
        'stopped: "m.ark" was not written. The same command goes on from what is in the cache.'
    ]
    assert running.returncode == 130
    assert os.listdir(tmp_path) == []


def test_what_is_said_without_a_cache_and_when_the_file_is_there(tmp_path: Path):
    file = tmp_path / "m.ark"
    with pytest.raises(KeyboardInterrupt) as caught, told_if_stopped(file, Cache(None)):
        raise KeyboardInterrupt
    assert str(caught.value) == f'"{file}" was not written. The same command begins anew'

    def finish() -> None:
        file.touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught, told_if_stopped(file, Cache(None)):
        finish()
    assert str(caught.value) == f'"{file}" is whole already'


def test_two_builds_of_one_file(start: Start, traced: Path, tmp_path: Path):
    """Both end, and the file is wholly one's: that of the one that ends last."""
    output = tmp_path / "out" / "m.ark"
    output.parent.mkdir()
    first = start("-o", output)
    second = build(traced, quant="int8", output=output, backend="onnxruntime")
    (note,) = second.notes
    assert note.startswith(
        f'Another build of "{output}" is running (process {first.pid}, quantizing model.'
    )
    assert note.endswith("; the one that ends last stays.")
    between = output.read_bytes()
    _, err = first.communicate(timeout=60)
    assert first.returncode == 0, err
    last = output.read_bytes()
    for quant, found in (("int8", between), ("int4", last)):
        build(traced, quant=quant, output=tmp_path / "alone.ark", backend="onnxruntime")
        assert found == (tmp_path / "alone.ark").read_bytes()
    assert os.listdir(output.parent) == ["m.ark"]
