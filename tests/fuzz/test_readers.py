"""Whatever bytes a reader gets: it reads them, or refuses them with an error of arkinfer.

Seeded and short; `make fuzz` searches longer, guided by coverage.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random
from time import process_time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arkinfer.errors import ArtifactError, CheckpointError
from fuzz import __main__ as command
from fuzz import structure
from fuzz.files import refusing
from fuzz.targets import load, names

SEEDS = {name: list(load(name).seeds()) for name in names()}
EXAMPLES = {"chat": 60, "sections": 60, "tokenizer": 100}
"""Fewer than 250, of readers that take milliseconds."""


@pytest.mark.parametrize("name", names())
def test_valid_samples_and_what_broke_once(name: str):
    assert SEEDS[name]
    for data in [*SEEDS[name], *command.regressions(name)]:
        load(name).one(data)


def changed(seed: bytes, other: bytes, random: Random, words: list[str]) -> bytes:
    """A sample with a few places overwritten, cut, doubled, filled or crossed with another."""
    data = bytearray(seed)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(data) + 1)
        end = min(len(data), at + random.choice([1, 1, 2, 8, 200]))
        piece = random.choice(
            [
                b"", random.randbytes(end - at), bytes(data[at:end]) * 2, b"\xff" * (end - at),
                bytes(end - at), random.choice(words or ["0"]).encode(), str(10**19).encode(),
                other[at:end], b"[" * 500, b"\xed\xa0\x80",
            ]
        )  # fmt: skip
        data[at:end] = piece
    return bytes(data[: random.choice([len(data), len(data), at])])


@pytest.mark.parametrize("name", names())
def test_changed_samples(name: str):
    target = load(name)
    words: list[str] = getattr(target, "DICTIONARY", [])

    @settings(
        max_examples=EXAMPLES.get(name, 250), derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.integers(0, 2**32))
    def check(number: int) -> None:
        random = Random(number)
        seed, other = random.choice(SEEDS[name]), random.choice(SEEDS[name])
        data = structure.mutate(seed, random, words) if random.random() < 0.6 else None
        start = process_time()
        target.one(data or changed(seed, other, random, words))
        assert process_time() - start < 10

    check()


@pytest.mark.parametrize("name", names())
def test_any_bytes(name: str):
    @settings(max_examples=30, derandomize=True, database=None)
    @given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
    def check(data: bytes) -> None:
        load(name).one(data)

    check()


def test_other_errors_and_bad_messages_are_not_let_through():
    with pytest.raises(KeyError), refusing(ArtifactError):
        raise KeyError("x")
    with pytest.raises(CheckpointError), refusing(ArtifactError):
        raise CheckpointError("x")
    with pytest.raises(AssertionError), refusing(ArtifactError):
        raise ArtifactError("")
    with refusing(ArtifactError):
        raise ArtifactError("a\x1b[2J", "\ud800" * 100_000)


def test_mutations_stay_json():
    seen: set[bytes | None] = set()
    for number in range(300):
        seen.add(structure.mutate(b'{"a": [1, {"b": 2.5}]}', Random(number), ["c"]))
    assert None not in seen
    assert len(seen) > 200
    assert structure.mutate(b"no JSON", Random(0)) is None


def test_the_long_run_finds_keeps_and_counts(monkeypatch: pytest.MonkeyPatch):
    """With atheris, where it is installed: it finds what breaks a reader that we break here."""
    pytest.importorskip("atheris")
    with tempfile.TemporaryDirectory() as folder:
        whole = command.run("target", 4, Path(folder))
        assert whole["exit"] == 0
        assert whole["executions"] > 100
        assert whole["edges"] > 100
        assert whole["broken"] == []
        monkeypatch.setenv("ARKINFER_FUZZ_BREAK", "backends")
        broken = command.run("target", 4, Path(folder))
        assert broken["exit"] != 0
        assert len(broken["broken"]) == 1
        assert b"backends" in Path(broken["broken"][0]).read_bytes()
        assert "| target | 4 |" in command.table([whole, broken])
