"""Files in large pages: a hint, and what becomes of it where the system takes it."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import pytest

from arkinfer.artifact.pages import forget, prefer_large_pages, renew

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


def huge_of(path: Path) -> int:
    """The same of a file that is mapped and read as artifacts are."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    prefer_large_pages(mapped)
    assert mapped[::4096] == b"x" * (SIZE // 4096)
    found = huge(path)
    mapped.close()
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux' /proc")
def test_large_pages_where_the_system_has_them(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * SIZE)
    before = huge_of(path)
    renew(path)
    after = huge_of(path)
    assert 0 <= before <= after <= SIZE
    if after == 0:
        pytest.skip("this file system or kernel keeps files in small pages")
    assert after > SIZE // 2


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        renew(tmp_path / "none")
