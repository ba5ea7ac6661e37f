"""Files in large pages: a hint, and what becomes of it where the system takes it."""

from __future__ import annotations

import mmap
import os
import re
from pathlib import Path

import pytest

from arkinfer.artifact.pages import forget, prefer_large_pages

SIZE = 8 << 20


def huge(path: Path) -> int:
    """Bytes of a mapped file that this process sees in pages of 2 MiB."""
    text = Path("/proc/self/smaps").read_text()
    part = text[text.index(str(path)) :]
    found = re.search(r"FilePmdMapped: +(\d+) kB", part)
    assert found is not None
    return int(found[1]) << 10


def test_a_written_file_that_was_forgotten_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = bytes(range(256)) * (SIZE // 256)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        forget(file.fileno())  # not on the disk yet: nothing may be lost
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    prefer_large_pages(mapped)
    assert mapped[:] == data
    mapped.close()


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux' /proc")
def test_large_pages_where_the_system_has_them(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * SIZE)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        forget(file.fileno())
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    prefer_large_pages(mapped)
    assert mapped[::4096] == b"x" * (SIZE // 4096)
    assert 0 <= huge(path) <= SIZE
    if huge(path) == 0:
        pytest.skip("this file system or kernel keeps files in small pages")
    mapped.close()
