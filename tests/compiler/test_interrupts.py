"""Builds that are asked to end, and two builds of one file at the same time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from arkinfer.compiler.build import build

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
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == ["m.ark"]
    assert (tmp_path / "m.ark").read_bytes() == b"an old file"
    assert os.listdir(own_cache / "tmp") == os.listdir(own_cache / "builds") == []


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
