"""The records around the entries, against zipfile and unzip."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arkinfer.artifact.layout import (
    ALIGNMENT,
    Entry,
    LayoutError,
    central_record,
    check_layout,
    end_records,
    local_header,
    name_problem,
    read_directory,
)

NAMES = st.text(st.sampled_from("abz019._-/"), min_size=1, max_size=60).filter(
    lambda name: not name_problem(name)
)
U64 = st.integers(0, 2**62)


@given(NAMES, U64, U64, st.integers(0, 2**32 - 1))
def test_data_is_aligned_and_the_padding_is_zero(name: str, header: int, size: int, crc: int):
    entry = Entry(name, header, size, crc)
    data = local_header(entry)
    assert entry.offset % ALIGNMENT == 0
    assert len(data) == entry.offset - header < 2 * ALIGNMENT
    assert struct.unpack_from("<QQ", data, 30 + len(name) + 4) == (size, size)
    assert not any(data[30 + len(name) + 20 + 6 :])


@given(st.lists(st.tuples(NAMES, U64, U64), max_size=8, unique_by=lambda row: row[0]))
def test_a_directory_reads_back(rows: list[tuple[str, int, int]]):
    entries = [Entry(*row, crc=i) for i, row in enumerate(rows)]
    directory = b"".join(map(central_record, entries))
    data = b"front" + directory + end_records(len(entries), len(directory), 5)
    found, offset = read_directory(lambda o, n: data[o : o + n], len(data))
    assert (found, offset) == (entries, 5)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"),
        ("a" * 1025, "longer"),
        ("/etc/passwd", "part"),
        ("a//b", "part"),
        ("a/", "part"),
        ("./a", "part"),
        ("a/../../b", "part"),
        ("C:a", "character"),
        ("a\\b", "character"),
        ("a b", "character"),
        ("a\n", "character"),
        ("é", "character"),
    ],
)
def test_forbidden_names(name: str, why: str):
    assert why in name_problem(name)


@pytest.mark.parametrize("header", [0, 4097, 12288])
def test_gaps_and_overlaps_are_out_of_place(header: int):
    first = Entry("a", 0, 10, 0)
    second = Entry("b", header, 10, 0)
    with pytest.raises(LayoutError, match=f'"b" is at byte {header} instead of 4106'):
        check_layout([first, second], second.end)
    check_layout([first, Entry("b", 4106, 10, 0)], Entry("b", 4106, 10, 0).end)
    with pytest.raises(LayoutError, match='"a" reaches past the directory'):
        check_layout([first], 4105)
    with pytest.raises(LayoutError, match="bytes between"):
        check_layout([first], 4107)


def _write_sparse(path: Path, big: int) -> list[Entry]:
    """A file with an entry of `big` zero bytes (a hole on the disk) and a small one after it."""
    first = Entry("weights/big", 0, big, 0)
    second = Entry("after.txt", first.end, 5, zlib.crc32(b"after"))
    directory = central_record(first) + central_record(second)
    with path.open("wb") as file:
        file.write(local_header(first))
        file.seek(second.header)
        file.write(local_header(second) + b"after" + directory)
        file.write(end_records(2, len(directory), second.end))
    return [first, second]


def test_entries_beyond_4_gib_are_read_by_zipfile_and_unzip(tmp_path: Path):
    path = tmp_path / "big.zip"
    first, second = _write_sparse(path, 5 << 30)
    with zipfile.ZipFile(path) as archive:
        sizes = [(i.filename, i.file_size, i.header_offset) for i in archive.infolist()]
        assert sizes == [(e.name, e.size, e.header) for e in (first, second)]
        assert archive.read("after.txt") == b"after"
        with archive.open("weights/big") as data:
            assert data.read(100) == bytes(100)
    if unzip := shutil.which("unzip"):
        listing = subprocess.run([unzip, "-l", path], capture_output=True, text=True, check=True)
        assert "5368709120" in listing.stdout
        extracted = subprocess.run([unzip, "-p", path, "after.txt"], capture_output=True)
        assert (extracted.returncode, extracted.stdout) == (0, b"after")


def test_many_entries_exceed_16_bits():
    entries = [Entry(f"e{i}", i, 0, 0) for i in range(70_000)]
    directory = b"".join(map(central_record, entries))
    data = directory + end_records(len(entries), len(directory), 0)
    assert len(zipfile.ZipFile(io.BytesIO(data)).infolist()) == 70_000
    found, _ = read_directory(lambda o, n: data[o : o + n], len(data))
    assert len(found) == 70_000
