"""`arkinfer cache` and the build's remarks, as a user meets them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arkinfer.compiler.cache import Cache, key_of
from arkinfer.compiler.journal import Journal
from arkinfer.testing import make_checkpoint
from arkinfer_trt.store import EngineKey, Store

Ark = Callable[..., Any]


@pytest.fixture
def filled(own_cache: Path) -> Path:
    """Three weights of 1,000 bytes and a graph of 100, the oldest of 50 days."""
    cache = Cache(own_cache)
    for number in range(3):
        key = key_of("weights", number)
        cache.put(key, [bytes(968)])
        os.utime(own_cache / key, (time.time() - 86400 * 25 * number,) * 2)
    cache.put(key_of("graphs", 0), [bytes(68)])
    return own_cache


def test_ls(ark: Ark, filled: Path):
    result = ark("cache", "ls")
    assert result.out.splitlines() == [
        f"folder  {filled}", "size    3.0 KiB of at most 18.6 GiB", "",
        "         entries     size", "graphs         1    100 B", "weights        3  2.9 KiB",
    ]  # fmt: skip
    assert json.loads(ark("cache", "ls", "--json").out) == {
        "folder": str(filled), "limit": 20 * 10**9, "entries": 4, "bytes": 3100,
        "kinds": {
            "graphs": {"entries": 1, "bytes": 100}, "weights": {"entries": 3, "bytes": 3000},
        },
    }  # fmt: skip


def test_engines_are_shown_and_removed(ark: Ark, own_cache: Path):
    store = Store(own_cache)
    key = EngineKey("ab" * 32, "10.16.2", 87, "Orin")
    store.keep_engine(key, bytes(10_000), {})
    store.keep_timings(key, bytes(100))
    kinds = json.loads(ark("cache", "ls", "--json").out)["kinds"]
    assert {name: kind["entries"] for name, kind in kinds.items()} == {"engines": 1, "timings": 1}
    assert kinds["engines"]["bytes"] >= 10_000
    assert ark("cache", "prune", "--all").out.startswith("dropped 2 entries, ")
    assert store.engine(key) is None


def test_ls_of_an_empty_one(ark: Ark, own_cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ARKINFER_CACHE_LIMIT", "1MiB")
    assert ark("cache", "ls").out == f"folder  {own_cache}\nsize    0 B of at most 1.0 MiB\n"


@pytest.mark.parametrize(
    ("options", "dropped"),
    [([], 0), (["--older-than", "30d"], 1), (["--limit", "1.5kB"], 2), (["--all"], 4)],
)
def test_prune(ark: Ark, filled: Path, options: list[str], dropped: int):
    facts = json.loads(ark("cache", "prune", *options, "--json").out)
    sizes = [0, 1000, 2000, 3000, 3100]
    assert facts == {
        "folder": str(filled), "dropped": dropped, "freed": sizes[dropped],
        "bytes": 3100 - sizes[dropped], "journals": 0,
    }  # fmt: skip
    left = _human(3100 - sizes[dropped])
    assert ark("cache", "prune", "--all").out == (
        f"dropped {4 - dropped} entries, {left}; 0 B are left in {filled}\n"
    )


def _human(size: int) -> str:
    return f"{size / 1024:.1f} KiB" if size >= 1024 else f"{size} B"


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["prune", "--limit", "lots"], '--limit cannot be "lots". It is a size. '
         "Write it like 5GB or 500MB."),
        (["prune", "--older-than", "5"], '--older-than cannot be "5". It is a time. '
         "Write it like 30d, 12h or 90m."),
        (["prune", "--all", "--limit", "1GB"], "--all drops everything. "
         "Leave --limit and --older-than out."),
        ([], 'Missing command. See "arkinfer cache --help".'),
    ],
)  # fmt: skip
def test_mistakes(ark: Ark, args: list[str], text: str):
    result = ark("cache", *args)
    assert (result.code, result.err) == (2, f"error: {text}\n")


def test_no_cache_to_look_at(ark: Ark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ARKINFER_CACHE", str(tmp_path / "file"))
    result = ark("cache", "ls")
    assert result.code == 1
    assert result.err == (
        f'error: There is no cache to look at. There is no cache: "{tmp_path / "file"}" cannot be '
        "used: File exists. Set ARKINFER_CACHE to another folder.\n"
    )


def test_a_build_says_what_it_reused(ark: Ark, tmp_path: Path, own_cache: Path):
    """And how the last one ended: on standard error, and in its JSON."""
    model = make_checkpoint("tiny", 0, tmp_path / "tiny")
    output = tmp_path / "m.ark"
    command = ("build", model, "-o", output, "--backend", "onnxruntime")
    assert "reused" not in ark(*command).out
    assert "\nreused    11 of 11 quantized matrices, from the cache\n" in ark(*command).out
    journal = Journal(own_cache / "builds", output)
    journal.note("quantizing model.layers.1.mlp.up_proj.weight.int4-g128 (weight 9 of 17)")
    os.close(journal._file)  # as the end of its process would
    sentence = (
        f'The last build of "{output}" was killed while quantizing '
        "model.layers.1.mlp.up_proj.weight.int4-g128 (weight 9 of 17); what it had finished is "
        "reused."
    )
    result = ark(*command, "--json")
    assert result.err == f"note: {sentence}\n"
    facts = json.loads(result.out)
    assert (facts["notes"], facts["reused"]) == ([sentence], 11)
