"""Headers of GGUF files: what GGUFWriter writes is read, and what is damaged is refused."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from arkinfer.errors import ArkError, CheckpointError, UnsupportedError
from arkinfer.frontend.gguf.file import Header, read_header
from arkinfer.frontend.gguf.split import gguf_file, read_parts
from arkinfer.frontend.slots import Slot, SlotReader


def write(file: Path, tensors: dict[str, Any] | None = None, **keys: Any) -> Path:
    """A file with these tensors (dots of keys are written as __)."""
    writer = gguf.GGUFWriter(file, "minicpm")
    for key, value in keys.items():
        name = key.replace("__", ".")
        if isinstance(value, tuple):
            writer.add_key_value(name, value[0], value[1])
        elif isinstance(value, list):
            writer.add_array(name, value)
        else:
            writer.add_string(name, value)
    for name, tensor in (tensors or {}).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def why(file: Path, kind: type[ArkError] = CheckpointError) -> str:
    with pytest.raises(kind) as caught:
        read_header(file)
    assert file.name in str(caught.value)
    return str(caught.value)


def raw(tensors: int = 0, keys: int = 0, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + rest


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def claim(name: bytes, shape: list[int], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def test_every_kind_of_value(tmp_path: Path) -> None:
    kinds = gguf.GGUFValueType
    values: dict[str, tuple[Any, Any]] = {
        "u8": (200, kinds.UINT8), "i8": (-3, kinds.INT8), "u16": (60_000, kinds.UINT16),
        "i16": (-30_000, kinds.INT16), "u32": (4_000_000_000, kinds.UINT32),
        "i32": (-2_000_000_000, kinds.INT32), "f32": (0.5, kinds.FLOAT32),
        "yes": (True, kinds.BOOL), "no": (False, kinds.BOOL),
        "u64": (1 << 63, kinds.UINT64), "i64": (-(1 << 62), kinds.INT64),
        "f64": (0.1, kinds.FLOAT64),
    }  # fmt: skip
    file = write(
        tmp_path / "m.gguf", **values, text="中文 🙂", texts=["a", "", "ß"], ints=[1, -2],
        floats=[0.25, 4.0], bools=[True, False],
    )  # fmt: skip
    metadata = read_header(file).metadata
    for key, (value, _) in values.items():
        assert metadata[key] == value
        assert type(metadata[key]) is type(value)
    assert (metadata["general.architecture"], metadata["text"]) == ("minicpm", "中文 🙂")
    assert metadata["texts"] == ["a", "", "ß"]
    for key, dtype, expected in (
        ("ints", np.int32, [1, -2]), ("floats", np.float32, [0.25, 4.0]),
        ("bools", np.bool_, [True, False]),
    ):  # fmt: skip
        found = metadata[key]
        assert isinstance(found, np.ndarray)
        assert (found.dtype, found.tolist()) == (dtype, expected)


def test_tensors_lie_where_the_table_says(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    tensors = {
        "a": draw.normal(size=(3, 5)).astype(np.float32),
        "b": draw.normal(size=7).astype(np.float16),
        "c": draw.normal(size=(2, 3, 4)).astype(np.float32),
    }
    header = read_header(write(tmp_path / "m.gguf", tensors))
    reader = SlotReader()
    for name, tensor in tensors.items():
        entry = header.tensors[name]
        assert (entry.shape, entry.nbytes) == (tensor.shape, tensor.nbytes)
        assert entry.type.dtype is not None
        slot = Slot(entry.file, entry.offset, entry.type.dtype, entry.shape)
        np.testing.assert_array_equal(reader.rows(slot, 0, len(tensor)), tensor)
    reader.close()


def test_another_alignment(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_custom_alignment(128)
    for name in "ab":
        writer.add_tensor(name, np.arange(3, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    first, second = read_header(file).tensors.values()
    assert first.offset % 128 == 0
    assert second.offset - first.offset == 128


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.gguf", {"a": np.ones(4, np.float32)}, k=["x", "yy"])
    content = whole.read_bytes()
    end = read_header(whole).tensors["a"].offset + 16
    file = tmp_path / "cut.gguf"
    for length in range(end):
        file.write_bytes(content[:length])
        message = why(file)
        assert "is cut off" in message or (length < 4 and "letters GGUF" in message)
    file.write_bytes(content[:end])
    assert read_header(file).tensors


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (b"", CheckpointError, "letters GGUF"),
        (b"PK\3\4", CheckpointError, "letters GGUF"),
        (b"version https://git-lfs", CheckpointError, "Git LFS pointer"),
        (raw(version=1), UnsupportedError, "version 1"),
        (raw(version=4), UnsupportedError, "version 4"),
        (raw(version=3 << 24), UnsupportedError, "other byte order"),
        (raw(tensors=1 << 60), CheckpointError, "claims to have 1,152,921,504,606,846,976 tensors"),
        (raw(keys=1 << 40), CheckpointError, "keys"),
        (raw(keys=1, rest=struct.pack("<Q", 1 << 50)), CheckpointError, "claims to have"),
        (raw(keys=1, rest=text(b"\xff\xfe") + bytes(8)), CheckpointError, "not UTF-8"),
        (raw(keys=2, rest=(text(b"k") + struct.pack("<IB", 0, 7)) * 2), CheckpointError, "twice"),
        (raw(keys=1, rest=text(b"k") + struct.pack("<I", 77)), CheckpointError, "unknown type 77"),
        (raw(keys=1, rest=text(b"k") + struct.pack("<IIQ", 9, 9, 1)), CheckpointError, "type 9"),
        (raw(keys=1, rest=text(b"k") + struct.pack("<IIQ", 9, 4, 1 << 60)), CheckpointError,
         "more than"),
        (raw(keys=1, rest=text(b"k") + struct.pack("<IIQ", 9, 8, 1 << 60)), CheckpointError,
         "more than"),
        (raw(keys=1, rest=text(b"general.alignment") + struct.pack("<II", 4, 0)), CheckpointError,
         "general.alignment is 0"),
        (raw(tensors=1, rest=claim(b"a", [1] * 9, 0, 0)), CheckpointError, "9 dimensions"),
        (raw(tensors=1, rest=claim(b"a", [1 << 60, 1 << 60], 0, 0)), CheckpointError, '"a" of'),
        (raw(tensors=1, rest=claim(b"a", [0], 0, 0)), CheckpointError, '"a" of [0]'),
        (raw(tensors=1, rest=claim(b"a", [4], 0, 1)), CheckpointError, "begins at byte 1"),
        (raw(tensors=1, rest=claim(b"a", [33], 2, 0)), CheckpointError, "no whole blocks"),
        (raw(tensors=2, rest=claim(b"a", [4], 0, 0) * 2), CheckpointError, '"a" twice'),
        (raw(tensors=1, rest=claim(b"a", [1 << 40], 0, 0)), CheckpointError, "is cut off"),
        (raw(tensors=1, rest=claim(b"a", [256], 10, 0)), UnsupportedError, "stored as Q2_K"),
        (raw(tensors=1, rest=claim(b"a", [256], 999, 0)), UnsupportedError, "unknown type 999"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_in_little_memory(
    tmp_path: Path, content: bytes, kind: type[ArkError], words: str
) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(content)
    tracemalloc.start()
    message = why(file, kind)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert words in message
    assert peak < 1 << 20


def parts(folder: Path, count: int) -> list[Path]:
    made = []
    for number in range(count):
        made.append(
            write(
                folder / f"m-{number + 1:05}-of-{count:05}.gguf",
                {f"t{number}": np.full(4, number, np.float32)},
                split__no=(number, gguf.GGUFValueType.UINT16),
                split__count=(count, gguf.GGUFValueType.UINT16),
                **({"only": "first"} if number == 0 else {}),
            )
        )
    return made


def test_a_model_in_several_files(tmp_path: Path) -> None:
    files = parts(tmp_path, 3)
    assert gguf_file(tmp_path) == files[0]
    for file in files:
        header = read_parts(file)
        assert list(header.tensors) == ["t0", "t1", "t2"]
        assert header.metadata["only"] == "first"
        assert [entry.file for entry in header.tensors.values()] == files


def test_a_part_that_is_missing_or_of_another_model(tmp_path: Path) -> None:
    files = parts(tmp_path, 3)
    second = files[1].read_bytes()
    files[1].unlink()
    with pytest.raises(CheckpointError, match=r"m-00002-of-00003\.gguf is missing from"):
        read_parts(files[0])
    files[1].write_bytes(files[2].read_bytes())
    with pytest.raises(CheckpointError, match="part 2 of 3"):
        read_parts(files[2])
    alone = tmp_path / "alone.gguf"
    alone.write_bytes(second)
    with pytest.raises(CheckpointError, match="one of 3 files"):
        read_parts(alone)
    assert isinstance(read_parts(write(tmp_path / "whole.gguf")), Header)
