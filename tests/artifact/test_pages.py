"""Files in large pages: a hint, and what becomes of it where the system takes it."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import pytest

from arkinfer.artifact import pages
from arkinfer.artifact.pages import forget, in_small_pages, prefer_large_pages, renew, resident

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


def write_in_pieces(path: Path) -> None:
    """As a copy or a download does, whose pages in the cache are small ones."""
    with path.open("wb", buffering=0) as file:
        for _ in range(SIZE >> 16):
            file.write(b"x" * (1 << 16))


def huge_of(path: Path) -> int:
    """The same of a file that is mapped and read as artifacts are."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    prefer_large_pages(mapped)
    assert mapped[::4096] == b"x" * (SIZE // 4096)
    found = huge(path)
    small = in_small_pages(path, SIZE // 2)
    mapped.close()
    assert small == (found < SIZE // 2 and pages._has_large_pages(str(path)))
    assert not in_small_pages(path, SIZE // 2), "it is not mapped any more"
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux' /proc")
def test_large_pages_where_the_system_has_them(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_in_pieces(path)
    before = huge_of(path)
    renew(path)
    after = huge_of(path)
    assert 0 <= before <= after <= SIZE
    if after == 0:
        pytest.skip("this file system or kernel keeps files in small pages")
    assert after > SIZE // 2


SMAPS = """\
7f0000000000-7f0008000000 r--s 00000000 fe:00 11                         /models/a b.ark
Size:             131072 kB
Rss:              100000 kB
FilePmdMapped:      2048 kB
VmFlags: rd mr me ms sd
7f0008000000-7f0009000000 r--s 08000000 fe:00 11                         /models/a b.ark
Rss:                  96 kB
FilePmdMapped:         0 kB
7f0010000000-7f0018000000 r--s 00000000 fe:00 12                         /models/other/a b.ark
Rss:              131072 kB
FilePmdMapped:    131072 kB
7ffe00000000-7ffe00021000 rw-p 00000000 00:00 0                          [stack]
Rss:                 132 kB
FilePmdMapped:         0 kB
"""


def test_what_is_resident_of_a_file() -> None:
    assert resident(SMAPS, "/models/a b.ark") == (100096 << 10, 2048 << 10)
    assert resident(SMAPS, "/models/other/a b.ark") == (128 << 20, 128 << 20)
    assert resident(SMAPS, "/models/none.ark") == resident("", "/models/a.ark") == (0, 0)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux' /proc")
@pytest.mark.parametrize(
    ("enabled", "size"),
    [("always madvise [never]", 2 << 20), ("[always] madvise never", 512 << 20)],
)
def test_a_system_without_them_is_not_advised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enabled: str, size: int
) -> None:
    path = tmp_path / "file"
    write_in_pieces(path)
    monkeypatch.setattr(pages, "_SYSTEM", tmp_path)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    assert mapped[::4096] == b"x" * (SIZE // 4096)
    assert huge(path) < SIZE // 2, "or nothing is tested"
    assert not in_small_pages(path, SIZE // 2), "the kernel does not say"
    (tmp_path / "enabled").write_text(enabled + "\n")
    (tmp_path / "hpage_pmd_size").write_text(f"{size}\n")
    assert not in_small_pages(path, SIZE // 2)
    mapped.close()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        renew(tmp_path / "none")
