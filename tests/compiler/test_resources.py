"""What a build needs of a machine, and what is said when it is not there."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from arkinfer.compiler import resources
from arkinfer.compiler.build import build
from arkinfer.compiler.plan import plan
from arkinfer.compiler.resources import build_memory, check_memory, free_memory, out_of_memory
from arkinfer.errors import ResourceError
from arkinfer.models.config import parse_config
from arkinfer.testing import make_checkpoint, preset

ROOT = Path(__file__).parents[2]
CONFIG = parse_config(preset("minicpm4-8b"))
GIB = 1 << 30


def test_the_8b_model_needs_less_than_a_gibibyte():
    assert 0.5 * GIB < build_memory(CONFIG) < GIB
    assert build_memory(CONFIG, calibrates_cache=True) > build_memory(CONFIG)


def test_a_build_is_refused_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the plan's own figure."""
    folder = make_checkpoint("tiny", 0, tmp_path / "tiny")
    monkeypatch.setattr(resources, "free_memory", lambda: 10 << 20)
    monkeypatch.setattr("arkinfer.compiler.build.prepare", None)
    monkeypatch.setattr(psutil.Process, "memory_info", lambda self: _Held(50 << 20, 200 << 20))
    needed = plan(folder, backend="onnxruntime").build_bytes
    with pytest.raises(ResourceError) as caught:
        build(folder, output=tmp_path / "m.ark", backend="onnxruntime")
    assert str(caught.value) == (
        f'There is not enough memory to build "{tmp_path / "m.ark"}": it takes about '
        f"{needed / (1 << 20):,.0f} MiB. 10 MiB are free, and this process holds 50 MiB. "
        "Close other programs, raise the limit, or build on another machine."
    )
    assert not (tmp_path / "m.ark").exists()


_Held = namedtuple("_Held", "rss vms")


def test_a_limit_of_address_space_is_seen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(psutil.Process, "memory_info", lambda self: _Held(50 << 20, 200 << 20))
    monkeypatch.setattr(resource, "getrlimit", lambda what: (400 << 20, 400 << 20))
    with pytest.raises(ResourceError, match=r"of address space\. This process may have 400 MiB"):
        check_memory(CONFIG, Path("m.ark"))


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What its page cache holds is given back when it is needed."""
    unlimited = free_memory()
    monkeypatch.setattr(resources, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    assert abs(free_memory() - unlimited) < GIB
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("800000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 100000\nactive_file 50000\n")
    assert free_memory() == 350_000
    (tmp_path / "memory.current").write_text("1200000\n")
    assert free_memory() == 0


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(), ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"), RuntimeError("can't start new thread"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_words_for_no_memory(error: Exception):
    with pytest.raises(ResourceError, match=r'The memory ran out while building "m\.ark"'):
        with out_of_memory(Path("m.ark")):
            raise error


def test_other_errors_stay():
    with pytest.raises(OSError, match="gone"), out_of_memory(Path("m.ark")):
        raise OSError("gone")


@pytest.mark.parametrize(
    ("mebibytes", "backend"),
    [(900, "onnxruntime"), (300, "onnxruntime"), (900, "tvm"), (300, "tvm")],
)
def test_little_address_space_is_one_sentence(tmp_path: Path, mebibytes: int, backend: str):
    folder = make_checkpoint("tiny", 0, tmp_path / "tiny")
    script = (
        "import resource, sys; limit = int(sys.argv[1]) << 20; "
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit)); "
        "from arkinfer.cli import main; sys.exit(main(['build', *sys.argv[2:]]))"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "backends")])
    done = subprocess.run(
        [sys.executable, "-c", script, str(mebibytes), str(folder), "-o", str(tmp_path / "m.ark"),
         "--backend", backend],
        env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert os.listdir(tmp_path) == ["tiny"]
    if backend == "tvm":  # it has to be loaded before a build begins, and is out of memory there
        assert done.returncode in (1, 4), done.stderr
        assert re.fullmatch(
            r"error: (There is not enough|The memory ran|The compiler of).*\n", done.stderr
        )
        return
    assert done.returncode == 1, done.stderr
    assert re.fullmatch(
        r"error: There is not enough memory to build .*: it takes about [\d,]+ MiB of address "
        rf"space\. This process may have {mebibytes} MiB \(ulimit -v\)\. Close .*\n",
        done.stderr,
    )
