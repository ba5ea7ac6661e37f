"""Sequences out of a text: deterministic, told by hash, refused in one sentence."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from arkinfer.compiler.calibration.text import TextOptions, sequences, text_options
from arkinfer.errors import UsageError
from arkinfer.frontend.checkpoint import Checkpoint, open_checkpoint
from arkinfer.frontend.hub import demo_checkpoint

WORDS = "The quick brown fox, number %d, jumps over the lazy dog and looks back.\n"


@pytest.fixture(scope="module")
def demo() -> Checkpoint:
    return open_checkpoint(demo_checkpoint())


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "notes.txt"
    file.write_text("".join(WORDS % i for i in range(400)))
    return file


def test_the_built_in_text(demo: Checkpoint) -> None:
    found = sequences(TextOptions(), demo)
    samples, tokens = found.ids.shape
    assert tokens == 512
    assert 12 <= samples <= 128
    assert (found.ids[:, 0] == 1).all()  # BOS
    assert (found.ids[:, 1:] != 1).all()
    assert found.facts() == {
        "text": "the built-in text",
        "text_sha256": found.sha256,
        "samples": samples,
        "tokens": 512,
        "seed": 0,
        "tokens_sha256": found.digest,
    }


def test_the_same_seed_takes_the_same_windows(demo: Checkpoint, text: Path) -> None:
    options = [TextOptions(text, 5, 64, seed) for seed in (0, 0, 1)]
    first, same, other = (sequences(each, demo) for each in options)
    assert first.ids.shape == (5, 64)
    assert first.digest == same.digest != other.digest
    assert first.sha256 == hashlib.sha256(text.read_bytes()).hexdigest()
    assert first.source == "notes.txt"


def test_windows_are_of_the_text_and_do_not_overlap(demo: Checkpoint, text: Path) -> None:
    from arkinfer.runtime.tokenizer import Tokenizer

    whole = Tokenizer(demo.tokenizer_json).encode(text.read_text())
    found = sequences(TextOptions(text, 10_000, 64, 3), demo)
    assert len(found.ids) == len(whole) // 63
    joined = found.ids[:, 1:].reshape(-1).tolist()
    starts = [i for i in range(63) if whole[i : i + len(joined)] == joined]
    assert len(starts) == 1


def test_json_lines(demo: Checkpoint, text: Path, tmp_path: Path) -> None:
    """Documents follow each other without a BOS between them."""
    lines = text.read_text().splitlines(keepends=True)
    file = tmp_path / "notes.jsonl"
    file.write_text("\n".join(json.dumps({"text": line, "n": 1}) for line in lines) + "\n\n")
    found = sequences(TextOptions(file, 8, 128), demo)
    assert found.ids.shape == (8, 128)
    assert (found.ids[:, 1:] != 1).all()


def test_a_short_text_gives_what_it_has(demo: Checkpoint, tmp_path: Path) -> None:
    file = tmp_path / "short.txt"
    file.write_text("".join(WORDS % i for i in range(14)))
    samples, tokens = sequences(TextOptions(file), demo).ids.shape
    assert samples == 1
    assert 256 < tokens < 512


@pytest.mark.parametrize("content", ["", "Only a few words.", "   \n"])
def test_a_tiny_text_is_refused(demo: Checkpoint, tmp_path: Path, content: str) -> None:
    file = tmp_path / "tiny.txt"
    file.write_text(content)
    with pytest.raises(UsageError) as caught:
        sequences(TextOptions(file), demo)
    assert "tiny.txt is too short to calibrate with: it has " in str(caught.value)
    assert "At least 256 are needed, and 65,536 were asked for." in str(caught.value)


def test_what_is_no_text(demo: Checkpoint, tmp_path: Path) -> None:
    missing = tmp_path / "missing.txt"
    with pytest.raises(UsageError, match=r"cannot be read\. No such file or directory"):
        sequences(TextOptions(missing), demo)
    with pytest.raises(UsageError, match=r"cannot be read\. Is a directory"):
        sequences(TextOptions(tmp_path), demo)
    binary = tmp_path / "model.bin"
    binary.write_bytes(b"ok\xff\xfe")
    with pytest.raises(UsageError, match=r"model\.bin is not text\. Byte 2 is not UTF-8"):
        sequences(TextOptions(binary), demo)
    lines = tmp_path / "a.jsonl"
    for content in (
        '{"text": "x"}\n{"txt": "y"}',
        '{"text": "x"}\n{"text": 3}',
        '{"text": "x"}\n[',
    ):
        lines.write_text(content)
        with pytest.raises(UsageError, match=r"Line 2 of a\.jsonl is no JSON object with a field"):
            sequences(TextOptions(lines), demo)


def test_a_text_that_is_too_long(
    demo: Checkpoint, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arkinfer.compiler.calibration.text.MOST", 1000)
    with pytest.raises(UsageError, match=r"is too long\. It has more than 1,000 bytes"):
        sequences(TextOptions(text), demo)


def test_numbers_that_make_no_sense() -> None:
    assert text_options(None, None, None, None) is None
    assert text_options(None, 5, None, None) == TextOptions(None, 5, 512, 0)
    for options, what in (
        ((None, 0, None, None), "number of calibration sequences cannot be 0"),
        ((None, None, 3, None), "length of calibration sequences cannot be 3. Give at least 16"),
        ((None, None, None, -1), "seed of the calibration cannot be -1"),
    ):
        with pytest.raises(UsageError, match=what):
            text_options(*options)


def test_sequences_are_no_longer_than_the_model_reaches(demo: Checkpoint, text: Path) -> None:
    found = sequences(TextOptions(text, 2, 100_000), demo)
    assert found.ids.shape[1] <= demo.config.max_position_embeddings
    assert found.ids.dtype == np.int64
