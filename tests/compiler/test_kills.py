"""`kill -9` in every phase of a build: no broken file, nothing left, and nothing done twice."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.compiler.conftest import Traced
from tests.compiler.killing import Builder, Kill

MATRICES = 11
"""That the tiny model quantizes, in order."""

TRACING = [
    Kill("front end", "arkinfer.compiler.build:check_memory"),
    Kill("front end", "arkinfer.frontend.trace:export"),
    Kill("front end", "arkinfer.frontend.trace:import_program", when="after"),
    Kill("cache", "os:replace"),  # the graph's
]
PASSES = [
    Kill("pass", "arkinfer.passes.manager:verify_module", call=call) for call in (1, 4, 8, 12)
] + [Kill("pass", "arkinfer.compiler.prepare:legalize", when=when) for when in ("before", "after")]
QUANTIZING = [
    Kill("quantize", "arkinfer.compiler.weights:round_to_nearest", call=call)
    for call in range(1, MATRICES + 1)
]
KEEPING = [
    Kill("cache", "os:replace", call=call, when=when)
    for call, when in ((1, "before"), (1, "after"), (6, "before"), (11, "after"))
]
WRITING = [
    Kill("write", "os:pwrite", call=call, when=when)
    for when in ("before", "within", "after")
    for call in (2, 14, 27, 40, 53, 66)
]
FINISHING = [
    Kill("fsync", "os:ftruncate"),
    *(Kill("fsync", "os:fsync", call=call, when=when)
      for call in (1, 2) for when in ("before", "after")),
    *(Kill("rename", "os:replace", call=MATRICES + 1, when=when) for when in ("before", "after")),
    Kill("rename", "arkinfer.artifact.writer:_sync_folder"),
]  # fmt: skip
LINKING = [  # first the probe is linked, before a build begins
    Kill("link", "arkinfer_tvm.build:_link", call=2, when=when, options={"backend": "tvm"})
    for when in ("before", "after")
]


@dataclass(frozen=True)
class Lab:
    """The process that builds the checkpoint that was built once."""

    builder: Builder
    once: Traced
    temporary: Path


@pytest.fixture(scope="module")
def lab(once: Traced, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    temporary = tmp_path_factory.mktemp("temporary")
    with Builder(once.checkpoint, temporary) as builder:
        yield Lab(builder, once, temporary)


def survive(lab: Lab, kill: Kill, folder: Path, *, old: bytes | None, graph: bool = True) -> None:
    """One build that is killed and the next one.

    A kill from outside that came too late, after the build, is tried again in half the time.
    """
    folder.mkdir()
    output, cache = folder / "out" / "m.ark", folder / "cache"
    output.parent.mkdir()
    if old is not None:
        output.write_bytes(old)
    if graph:
        shutil.copytree(lab.once.graphs, cache / "graphs")
    killed = lab.builder.build(output, cache, kill)
    if kill.seconds and killed.status == 0:
        sooner = replace(kill, seconds=kill.seconds / 2)
        return survive(lab, sooner, folder / "again", old=old, graph=graph)
    assert killed.status == -signal.SIGKILL, (str(kill), killed)
    found = output.read_bytes() if output.exists() else None
    assert found in (
        (old, lab.once.artifact) if kill.phase in ("rename", "fsync", "any") else (old,)
    )
    kept = sum(1 for path in (cache / "weights").glob("??/*"))
    again = lab.builder.build(output, cache)
    assert again.status == 0, (str(kill), again.error)
    assert output.read_bytes() == lab.once.artifact
    assert again.reused == kept
    assert os.listdir(output.parent) == ["m.ark"]
    assert os.listdir(cache / "tmp") == os.listdir(cache / "builds") == []
    assert os.listdir(lab.temporary) == []
    check_what_is_said(kill, again.notes, kept, str(output))


def check_what_is_said(kill: Kill, notes: tuple[str, ...], kept: int, output: str) -> None:
    if kill.phase == "any":
        return
    (note,) = notes
    assert note.startswith(f'The last build of "{output}" was killed while ')
    assert note.endswith("; what it had finished is reused.")
    if kill.phase == "quantize":
        assert kept == kill.call - 1
        assert " while quantizing model." in note
    if kill.function == "os:fsync":
        assert kept == MATRICES
        assert " while finishing the file; " in note
    if "trace" in kill.function:
        assert " while tracing the model; " in note


@pytest.mark.parametrize(
    "kill",
    [PASSES[2], QUANTIZING[6], KEEPING[2], WRITING[9], FINISHING[1], FINISHING[5]],
    ids=lambda kill: kill.phase,
)
def test_a_kill_leaves_no_mark(lab: Lab, tmp_path: Path, kill: Kill):
    survive(lab, kill, tmp_path / "a", old=b"an old file")


@pytest.mark.slow
def test_sixty_kills_leave_no_mark(lab: Lab, tmp_path: Path):
    """In every phase, with and without a file that is replaced; and at random moments."""
    draw = random.Random(5)
    chosen = [*PASSES, *QUANTIZING, *KEEPING, *WRITING, *FINISHING, *LINKING]
    shutil.copytree(lab.once.graphs, tmp_path / "cache" / "graphs")
    began = time.monotonic()
    assert lab.builder.build(tmp_path / "m.ark", tmp_path / "cache").status == 0
    spent = time.monotonic() - began
    chosen += [Kill("any", seconds=0.02 + spent * draw.random() * 0.8) for _ in range(10)]
    tracing = [(kill, False) for kill in TRACING]
    for number, (kill, graph) in enumerate([*((kill, True) for kill in chosen), *tracing]):
        old = None if number % 3 == 0 else b"an old file"
        survive(lab, kill, tmp_path / str(number), old=old, graph=graph)
        shutil.rmtree(tmp_path / str(number))
    assert len(chosen) + len(tracing) >= 60
