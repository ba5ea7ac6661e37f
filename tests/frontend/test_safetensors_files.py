"""Headers that lie: every one is a CheckpointError that names the file."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from arkinfer.errors import CheckpointError
from arkinfer.frontend.safetensors_files import read_table
from arkinfer.frontend.slots import SlotReader

EditHeader = Callable[[Path, Callable[[dict[str, Any]], None]], None]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "w.safetensors"
    a, b = np.arange(12, dtype=np.float32).reshape(3, 4), np.arange(5, dtype=np.int8)
    save_file({"a": a, "b": b, "empty": np.zeros((0, 3), np.float16)}, path)
    return path


def why(file: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_table(file)
    assert file.name in str(caught.value)
    return str(caught.value)


def test_reads_what_the_library_writes(file: Path) -> None:
    table, reader = read_table(file), SlotReader()
    assert sorted(table) == ["a", "b", "empty"]
    np.testing.assert_array_equal(
        reader.rows(table["a"], 1, 3), np.arange(4, 12, dtype=np.float32).reshape(2, 4)
    )
    np.testing.assert_array_equal(reader.rows(table["b"], 0, 5), np.arange(5))
    assert reader.rows(table["empty"], 0, 0).shape == (0, 3)
    reader.close()


def test_cut_off(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    assert "w.safetensors is cut off" in why(file)
    file.write_bytes(content[:40])
    assert "w.safetensors is cut off" in why(file)
    file.write_bytes(content[:4])
    assert "does not begin with a safetensors header" in why(file)


def test_not_safetensors_at_all(file: Path) -> None:
    file.write_bytes(b"\xff" * 100)
    assert "does not begin with a safetensors header" in why(file)
    file.write_bytes(struct.pack("<Q", 4) + b"[{]}")
    assert "Its header cannot be read: it is" in why(file)
    file.write_bytes(struct.pack("<Q", 2) + b"[]")
    assert "Its header is not a JSON object" in why(file)
    file.write_bytes(struct.pack("<Q", 20000) + b"[" * 20000)
    assert "Its header cannot be read: it is" in why(file)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "is a Git LFS pointer" in why(file)


def test_a_name_that_stands_twice(file: Path) -> None:
    entry = b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    text = b"{" + entry + b"," + entry + b"}"
    file.write_bytes(struct.pack("<Q", len(text)) + text + b"x")
    assert "a key comes twice" in why(file)


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("b", {"data_offsets": [40, 45]}, "overlap"),
        ("b", {"data_offsets": [49, 54]}, "leave a gap"),
        ("a", {"data_offsets": [0, 40]}, "The size of a is not that of F32 [3, 4]"),
        ("a", {"data_offsets": [48, 0]}, "The size of a is not"),
        ("a", {"shape": [3, -4]}, "The size of a is not"),
        ("a", {"shape": [3, True, 4]}, "The size of a is not"),
        ("a", {"shape": [3.0, 4]}, "The size of a is not"),
        ("a", {"dtype": "F17"}, "unknown dtype 'F17'"),
        ("a", {"dtype": None}, "unknown dtype None"),
        ("a", {"shape": 12}, "describes a incompletely"),
        ("a", {"data_offsets": [0]}, "describes a incompletely"),
    ],
)
def test_entries_that_lie(
    file: Path, edit_header: EditHeader, name: str, change: dict[str, Any], reason: str
) -> None:
    edit_header(file, lambda header: header[name].update(change))
    assert reason in why(file)


def test_incomplete_entries_and_trailing_bytes(file: Path, edit_header: EditHeader) -> None:
    content = file.read_bytes()
    edit_header(file, lambda header: header["a"].pop("dtype"))
    assert "describes a incompletely" in why(file)
    file.write_bytes(content)
    edit_header(file, lambda header: header.update(a="x"))
    assert "describes a incompletely" in why(file)
    file.write_bytes(content + b"?")
    assert "It has 1 bytes after its last tensor" in why(file)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_flipped_bytes_are_a_named_error_or_harmless(file: Path, data: st.DataObject) -> None:
    content = bytearray(ORIGINAL)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        table = read_table(file)
    except CheckpointError:
        return
    reader = SlotReader()
    for slot in table.values():
        reader.rows(slot, 0, slot.shape[0] if slot.shape else 1)
    reader.close()


def _original() -> bytes:
    from safetensors.numpy import save

    return save({"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.arange(5)})


ORIGINAL = _original()
