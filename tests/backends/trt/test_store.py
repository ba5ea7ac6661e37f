"""Engines that are kept: found, damaged, of another device, at once from two processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from arkinfer.compiler.cache import Cache
from arkinfer.errors import ResourceError
from arkinfer_trt.store import EngineKey, Kept, Store

KEY = EngineKey("ab" * 32, "10.16.2", 87, "NVIDIA Jetson AGX Orin Developer Kit")
ENGINE = bytes(range(256)) * 100
ROOT = Path(__file__).parents[3]


def kept(store: Store, key: EngineKey = KEY) -> Kept:
    found = store.engine(key)
    assert found is not None
    return found


def test_an_engine_is_found_again(tmp_path: Path):
    store = Store(tmp_path)
    assert store.engine(KEY) is None
    path = store.keep_engine(KEY, ENGINE, {"seconds": 12.5})
    found = kept(Store(tmp_path))
    assert (found.path, bytes(found.content)) == (path, ENGINE)
    facts = Store(tmp_path).facts(KEY)
    assert facts == found.facts
    assert facts is not None
    assert (facts["seconds"], facts["size"], store.notes) == (12.5, len(ENGINE), [])


def test_it_is_the_user_s_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ARKINFER_CACHE", str(tmp_path / "own"))
    path = Store().keep_engine(KEY, ENGINE, {})
    assert path is not None
    assert path.is_relative_to(tmp_path / "own" / "engines")


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, artifact="cd" * 32),
        replace(KEY, tensorrt="10.16.3"),
        replace(KEY, sm=89),
        replace(KEY, device="NVIDIA Jetson Orin NX Engineering Reference Developer Kit"),
        replace(KEY, network="native"),
        replace(KEY, weights="inputs"),
    ],
)
def test_all_that_an_engine_depends_on_names_it(tmp_path: Path, other: EngineKey):
    store = Store(tmp_path)
    store.keep_engine(KEY, ENGINE, {})
    assert store.engine(other) is None
    store.keep_engine(other, b"other", {})
    assert bytes(kept(store).content) == ENGINE


def test_engines_that_cannot_be_used_are_named(tmp_path: Path):
    store = Store(tmp_path)
    store.keep_engine(replace(KEY, tensorrt="10.15.1"), ENGINE, {})
    store.keep_engine(replace(KEY, device="Orin NX", sm=87), ENGINE, {})
    store.keep_engine(replace(KEY, artifact="cd" * 32, device="another file's"), ENGINE, {})
    store.keep_engine(KEY, ENGINE, {})
    assert store.stale(KEY) == ["Orin NX", "TensorRT 10.15.1"]


@pytest.mark.parametrize("place", [0, 9, 13, 30, 5000, -1])
def test_a_damaged_engine_is_never_used(tmp_path: Path, place: int):
    path = Store(tmp_path).keep_engine(KEY, ENGINE, {"seconds": 1.0})
    assert path is not None
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    store = Store(tmp_path)
    assert store.engine(KEY) is None
    assert store.notes == [f'"{path}" was damaged; it is made again']
    assert not path.exists()


@pytest.mark.parametrize("size", [0, 7, 100, 5000, -1])
def test_a_torn_engine_is_never_used(tmp_path: Path, size: int):
    path = Store(tmp_path).keep_engine(KEY, ENGINE, {})
    assert path is not None
    path.write_bytes(path.read_bytes()[:size])
    assert Store(tmp_path).facts(KEY) is None
    assert Store(tmp_path).engine(KEY) is None


def test_timings_are_kept_for_a_version_and_a_device(tmp_path: Path):
    store = Store(tmp_path)
    assert store.timings(KEY) == b""
    store.keep_timings(KEY, b"first")
    store.keep_timings(KEY, b"second")
    assert store.timings(replace(KEY, artifact="cd" * 32, network="gemv")) == b"second"
    assert store.timings(replace(KEY, tensorrt="10.16.3")) == b""


def test_the_cache_shows_and_removes_them(tmp_path: Path):
    store = Store(tmp_path)
    store.keep_engine(KEY, ENGINE, {})
    store.keep_timings(KEY, b"times")
    cache = Cache(tmp_path)
    assert sorted(entry.kind for entry in cache.entries()) == ["engines", "timings"]
    cache.prune(0)
    assert (store.engine(KEY), store.timings(KEY)) == (None, b"")


WRITE = """
import os, sys, time
from pathlib import Path
from arkinfer_trt.store import EngineKey, Store
os.replace = lambda *_: (print("there", flush=True), time.sleep(60))
Store(Path(sys.argv[1])).keep_engine(EngineKey("a", "b", 1, "c"), b"x", {})
"""


def test_a_build_does_not_take_a_file_that_is_being_written(tmp_path: Path):
    """The cache removes what killed builds left there; a live one holds its lock."""
    process = _python(WRITE, str(tmp_path))
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        Cache(tmp_path)
        assert len(list((tmp_path / "tmp").iterdir())) == 1
    finally:
        process.kill()
        process.wait()
    Cache(tmp_path)
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder nobody may write to")
def test_a_folder_that_cannot_be_written_is_said():
    store = Store(Path("/proc/self/arkinfer"))
    with store.alone():
        assert store.engine(KEY) is None
        assert store.keep_engine(KEY, ENGINE, {}) is None
        store.keep_timings(KEY, b"times")
    (note,) = store.notes
    assert note.startswith('The engine is not kept: "/proc/self/arkinfer" cannot be written (')
    assert note.endswith("). ARKINFER_CACHE can name another folder")


HOLD = """
import sys, time
from pathlib import Path
from arkinfer_trt.store import Store
with Store(Path(sys.argv[1])).alone():
    print("holds", flush=True)
    time.sleep(60)
"""


def _python(script: str, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'backends'}"}
    command = [sys.executable, "-c", script, *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_the_second_process_waits_and_says_so(tmp_path: Path):
    first = _python(HOLD, str(tmp_path))
    said: list[str] = []
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "holds\n"

        def on_progress(what: str, done: int, total: int) -> None:
            said.append(what)
            first.kill()  # whoever holds it may also be killed: nothing is left behind

        with Store(tmp_path).alone(on_progress, patience=60):
            pass
    finally:
        first.kill()
        first.wait()
    assert set(said) == {f"Waiting for process {first.pid}, which prepares an engine"}


def test_nobody_waits_for_ever(tmp_path: Path):
    first = _python(HOLD, str(tmp_path))
    try:
        assert first.stdout is not None
        first.stdout.readline()
        start = time.monotonic()
        with pytest.raises(ResourceError) as caught, Store(tmp_path).alone(patience=0.2):
            pass
        assert time.monotonic() - start < 5
    finally:
        first.kill()
        first.wait()
    assert str(caught.value) == (
        "Another process prepares an engine, and does not come to an end. "
        f"Process {first.pid} has been at it for more than 0 s. End it, and try again."
    )
