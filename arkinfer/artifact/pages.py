"""Asks the system to keep files in pages of 2 MiB, and tells whether it does. Knows nothing of what
is in them.

Weights are read once a token, and looking up the addresses of 4 KiB pages costs up to a quarter of
the time. Linux reads a mapped file into large pages when it is asked to before the pages are in its
cache, and where the file system has them; what is in the cache stays as it is.
"""

from __future__ import annotations

import mmap
import os
import re
from contextlib import suppress
from pathlib import Path

LARGE = 2 << 20
_MUCH = 64 << 20
"""Bytes of a file that are worth a word: addresses of less are at hand in every processor."""

_SYSTEM = Path("/sys/kernel/mm/transparent_hugepage")
_SINCE = {"xfs": (5, 18), "ext4": (6, 16)}
"""File systems that have large pages, and the Linux from which on."""


def prefer_large_pages(mapped: mmap.mmap) -> None:
    """To be asked for as soon as a file is mapped, before anything of it is read."""
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            mapped.madvise(mmap.MADV_HUGEPAGE)


def in_small_pages(path: Path, much: int = _MUCH) -> bool:
    """Whether this process reads most of a mapped file in small pages though the system has large
    ones for it: `renew` and mapping it again would help. False where nobody can tell.

    Args:
        path: a file that this process has mapped, and has read.
        much: bytes in memory from which on it matters.
    """
    try:
        place = os.path.realpath(path)
        smaps = Path("/proc/self/smaps").read_text(errors="replace")
        held, large = resident(smaps, place)
        return held >= much and large < held / 2 and _has_large_pages(place)
    except (OSError, ValueError):
        return False  # another system, or a kernel that does not say


def resident(smaps: str, path: str) -> tuple[int, int]:
    """Bytes of a file that a process has in memory, and of these in large pages.

    Args:
        smaps: as Linux has it in /proc/<process>/smaps.
        path: as it stands there.
    """
    held = large = 0
    mine = False
    for line in smaps.splitlines():
        name, _, rest = line.partition(":")
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            mine = line.partition("/")[2] == path[1:]
        elif mine and name == "Rss":
            held += int(rest.split()[0]) << 10
        elif mine and name == "FilePmdMapped":
            large += int(rest.split()[0]) << 10
    return held, large


def _has_large_pages(path: str) -> bool:
    """Whether the kernel and the file system of a file have large pages.

    Raises:
        OSError, ValueError: the kernel does not say.
    """
    if "[never]" in (_SYSTEM / "enabled").read_text():
        return False
    if int((_SYSTEM / "hpage_pmd_size").read_text()) != LARGE:
        return False
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    mounts = (line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines())
    kind = next((m[m.index("-") + 1] for m in mounts if m[2] == wanted), "")
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (
        kind in _SINCE
        and release is not None
        and ((int(release[1]), int(release[2])) >= _SINCE[kind])
    )


def renew(path: Path) -> None:
    """Lets whoever maps a file next read it into large pages, however it came here: copied and
    downloaded files are in the cache in small ones. Pages that a process maps stay.

    Raises:
        OSError: the file cannot be opened, or not be brought to the disk.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)  # what is not yet on the disk cannot be forgotten
        forget(file)
    finally:
        os.close(file)


def forget(file: int) -> None:
    """Takes an open file that is safe on the disk out of the page cache.

    It was written in small pieces and would stay there in small pages: whoever maps it next reads
    it into large ones.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
