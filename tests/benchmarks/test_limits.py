"""The machine's own limits: the program compiles here, and what it says is plausible."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from arkinfer.bench.cases import Case
from arkinfer.bench.process import Worker
from arkinfer.errors import DeviceError
from arkinfer.testing import preset
from benchmarks import limits
from benchmarks.limits import Limits, Work, work_of

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
SMALL = Work(weights=64 << 20, cached=1 << 13, products=1 << 26, head=1 << 24)


def best(measure: object, count: int) -> float:
    assert callable(measure)
    return min(measure(count) for _ in range(5))


def test_the_work_of_a_token():
    """By hand: 358,612,992 weights in layers, 75,210,752 in the head, 24 layers of 2 x 2 x 64."""
    config = preset("minicpm4-0.5b")
    int4, ternary = work_of(config, "int4"), work_of(config, "ternary")
    assert int4.weights == (358_612_992 + 75_210_752) * (4 + 1 / 8) / 8
    assert ternary.weights == 358_612_992 / 4 + 75_210_752 * (4 + 1 / 8) / 8
    for work in (int4, ternary):
        assert (work.products, work.head) == (358_612_992, 75_210_752)
        assert work.cached == 24 * 2 * 2 * 64 * 2


@needs_cc
def test_plausible_numbers():
    """Wide bounds: a board reads some GB/s and a server hundreds; products are 100 to 1e5 Gop/s."""
    one = Limits(SMALL, 1, 8192)
    assert 0.5 < SMALL.weights / best(one.decode, 1) / 1e9 < 2000
    assert 1 < 2 * (SMALL.products * 64 + SMALL.head) / best(one.prefill, 64) / 1e9 < 1e5
    assert one.dot in ("AVX512-VNNI", "AVX-VNNI", "AVX2", "i8mm", "dotprod", "none")


@needs_cc
def test_more_work_takes_longer():
    """Nothing is optimized away, and the cache counts; the bounds leave room for a busy machine."""
    limit = Limits(SMALL, 1, 1 << 14)
    assert best(limit.prefill, 64) > 2 * best(limit.prefill, 8)
    single = best(limit.decode, 2)
    assert best(limit.decode, 16) > 2 * single
    limit.seek((1 << 14) - 2)
    assert best(limit.decode, 2) > 1.3 * single  # three times the bytes
    assert best(limit.step, 32) < single * 2


@needs_cc
@pytest.mark.skipif(platform.machine() != "x86_64", reason="flags of x86-64")
@pytest.mark.parametrize("level", ["x86-64", "x86-64-v3", "x86-64-v4"])
def test_other_processors(level: str, tmp_path: Path):
    """What has other instructions gets others; nothing warns."""
    flags = ["-std=gnu11", "-O3", f"-march={level}", "-Wall", "-Wextra", "-Werror", "-pthread"]
    command = ["cc", *flags, "-c", str(limits.SOURCE), "-o", str(tmp_path / "limits.o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 0


@needs_cc
def test_as_an_engine(tmp_path: Path):
    config = {**preset("tiny"), "tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with Worker("limits", limits.command(tmp_path, "int4", 2, 64)) as worker:
        facts = worker.ready()
        assert facts["work"]["products"] == work_of(config, "int4").products
        for case in (Case("decode", 8, 4), Case("prefill", 0, 16)):
            assert 0 < worker.seconds(case) < 1


@pytest.mark.parametrize(
    ("compiler", "text"),
    [
        ("no-such-cc", 'There is no C compiler "no-such-cc". Install one: sudo apt-get install'),
        ("false", "exit status 1. Try another compiler: CC=clang."),
    ],
)
def test_no_compiler(compiler: str, text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(DeviceError) as caught:
        limits.compiled()
    assert str(caught.value).startswith(f"The machine's limits cannot be measured here. {text}")
