"""The content cache: what goes in comes out, or nothing does."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arkinfer.compiler import cache as cache_module
from arkinfer.compiler.cache import Cache, cache_limit, code_of, key_of, parse_size
from arkinfer.errors import InternalError, UsageError

ROOT = Path(__file__).parents[2]


def key(number: int) -> str:
    return key_of("golden", number)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stem != "CACHEDIR")


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_what_goes_in_comes_out(tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]):
    cache = Cache(tmp_path_factory.mktemp("cache"))
    assert cache.get(key(0)) is None
    cache.put(key(0), chunks)
    assert cache.get(key(0)) == b"".join(chunks)
    assert Cache(cache.folder).get(key(0)) == b"".join(chunks)


def test_every_fact_counts():
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    variants = [
        key_of("weights", "a", rows),
        key_of("golden", "a", rows),
        key_of("weights", "b", rows),
        key_of("weights", "a", rows, None),
        key_of("weights", "a", rows.reshape(4, 3)),
        key_of("weights", "a", rows.view(np.int32)),
        key_of("weights", "a", np.nextafter(rows, np.float32(99))),
        key_of("weights", "a", rows.astype(ml_dtypes.bfloat16)),
        key_of("weights", "a", rows.tobytes()),
        key_of("weights", "ab", "c"),
        key_of("weights", "a", "bc"),
        key_of("weights", 1),
        key_of("weights", "1"),
        key_of("weights", True),
    ]
    assert len(set(variants)) == len(variants)
    assert key_of("weights", "a", np.asfortranarray(rows)) == variants[0]
    assert code_of("quant") != code_of("packing")
    assert len(code_of("ir", "compiler/kv_scales.py")) == 64
    with pytest.raises(InternalError, match='nothing of the kind "weight"'):
        key_of("weight", rows)


@pytest.mark.parametrize("size", [0, 1, 100])
def test_a_damaged_entry_is_never_used(tmp_path: Path, size: int):
    """Whatever bit flips, and wherever the file ends."""
    cache = Cache(tmp_path)
    cache.put(key(0), [bytes(size)])
    path = tmp_path / key(0)
    whole = path.read_bytes()
    damaged = [whole[:length] for length in range(len(whole))] + [whole + b"\0"]
    for at in range(len(whole)):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        damaged.append(bytes(flipped))
    for data in damaged:
        path.write_bytes(data)
        assert cache.get(key(0)) is None
        assert not path.exists()
    cache.put(key(0), [bytes(size)])
    assert cache.get(key(0)) == bytes(size)


def test_a_full_cache_drops_what_was_not_used_for_longest(tmp_path: Path):
    first = Cache(tmp_path)
    for number in range(10):
        first.put(key(number), [bytes(968)])  # 1,000 with its digest
        os.utime(tmp_path / key(number), (number, number))
    assert Cache(tmp_path).get(key(0)) is not None  # used now
    second = Cache(tmp_path, limit=10_000)
    for number in range(10, 13):
        second.put(key(number), [bytes(968)])
    kept = {path.name for path in files(tmp_path)}
    assert kept == {Path(key(n)).name for n in (0, 4, 5, 6, 7, 8, 9, 10, 11, 12)}
    assert second.problem == ""


def test_a_build_larger_than_the_limit_keeps_its_beginning(tmp_path: Path):
    """Else the next one would drop each entry just before it asks for it."""
    for _ in range(2):
        cache = Cache(tmp_path, limit=5_000)
        found = [cache.get(key(number)) is not None for number in range(8)]
        for number, hit in enumerate(found):
            if not hit:
                cache.put(key(number), [bytes(968)])
    assert found == [True] * 5 + [False] * 3
    assert cache.problem.startswith(f'The cache "{tmp_path}" takes no more: it holds 5,000 bytes')


def test_the_disk_is_left_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    free = [1 << 30]
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 40, 0, free[0])
    )
    cache = Cache(tmp_path)
    cache.keep_free(700 << 20)
    cache.put(key(0), [bytes(100)])
    free[0] = (700 << 20) + cache_module.SPARE
    cache.put(key(1), [bytes(100)])
    assert cache.get(key(1)) is None
    assert "takes no more" in cache.problem
    assert cache.get(key(0)) == bytes(100)


def test_a_failing_disk_costs_the_entry_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache = Cache(tmp_path)

    def full(old: object, new: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    cache.put(key(0), [bytes(100)])
    assert cache.problem == f'The cache "{tmp_path}" takes no more: No space left on device.'
    assert files(tmp_path) == []


@pytest.mark.parametrize("place", ["file", "unwritable", "/dev/null/cache"])
def test_a_place_that_cannot_be_used_turns_it_off(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / place
    if place == "file":
        folder.write_text("")
    elif place == "unwritable":
        monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
        monkeypatch.setattr(Path, "touch", _refuse)
    cache = Cache(folder)
    assert cache.folder is None
    assert cache.problem.startswith(f'There is no cache: "{folder}" cannot be used: ')
    cache.put(key(0), [b"x"])
    assert cache.get(key(0)) is None
    assert list(cache.entries()) == []


def _refuse(*_: object) -> None:
    raise PermissionError(13, "Permission denied")


def test_a_cache_that_is_cleared_meanwhile_goes_on(tmp_path: Path):
    cache = Cache(tmp_path / "c")
    cache.put(key(0), [b"x"])
    shutil.rmtree(tmp_path / "c")
    cache.put(key(1), [b"x"])
    assert cache.get(key(0)) is None
    assert cache.problem == ""


def test_folders_are_private_and_marked(tmp_path: Path):
    Cache(tmp_path / "a" / "b").put(key(0), [b"x"])
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    assert (tmp_path / "a" / "b" / "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f59")


def test_pruning_touches_nothing_else(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "weights" / "ab").mkdir(parents=True)
    (tmp_path / "weights" / "ab" / "notes").write_text("mine")
    cache = Cache(tmp_path)
    for number in range(5):
        cache.put(key(number), [bytes(968)])
        os.utime(tmp_path / key(number), (time.time() - 3600 * number,) * 2)
    assert cache.prune(10_000, older_than=3.5 * 3600) == (1, 1000)
    assert cache.prune(2_500) == (2, 2000)
    assert cache.get(key(0)) is not None
    assert cache.prune(0) == (2, 2000)
    assert {path.name for path in files(tmp_path)} == {"mine.txt", "notes"}


def test_what_a_killed_process_left_goes_when_the_next_one_opens_it(tmp_path: Path):
    script = """
import os, signal, sys
from pathlib import Path
from arkinfer.compiler.cache import Cache, key_of
cache = Cache(Path(sys.argv[1]))
os.replace = lambda old, new: os.kill(os.getpid(), signal.SIGKILL)
cache.put(key_of("golden", 0), [b"x" * 1000])
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], env=environment, timeout=60
    )
    assert done.returncode == -9
    (left,) = files(tmp_path)
    assert left.parent.name == "tmp"
    Cache(tmp_path)
    assert files(tmp_path) == []


def test_many_processes_share_it(tmp_path: Path):
    script = """
import sys
from pathlib import Path
from arkinfer.compiler.cache import Cache, key_of
cache = Cache(Path(sys.argv[1]), limit=30_000)
for round in range(40):
    for number in range(20):
        key = key_of("golden", number)
        found = cache.get(key)
        assert found is None or found == bytes([number]) * 2000, number
        if found is None:
            cache.put(key, [bytes([number]) * 1000] * 2)
assert cache.problem == "" or "takes no more: it holds" in cache.problem, cache.problem
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, str(tmp_path)]
    running = [subprocess.Popen(command, env=environment) for _ in range(4)]
    assert [process.wait(timeout=120) for process in running] == [0] * 4
    assert {path.parent.parent.name for path in files(tmp_path)} == {"golden"}


def test_sizes(monkeypatch: pytest.MonkeyPatch):
    assert [parse_size(t, "x") for t in ("7", "5GB", "1.5 kb", "2 MiB")] == [
        7, 5 * 10**9, 1500, 2 << 20,
    ]  # fmt: skip
    for text in ("", "5 apples", "-3GB", "GB"):
        with pytest.raises(UsageError, match=r"--limit cannot be .*Write it like 5GB or 500MB\."):
            parse_size(text, "--limit")
    monkeypatch.setenv("ARKINFER_CACHE_LIMIT", "much")
    with pytest.raises(UsageError, match='ARKINFER_CACHE_LIMIT cannot be "much"'):
        cache_limit()
