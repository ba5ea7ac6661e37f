"""Asks the system to keep files in pages of 2 MiB. Knows nothing of what is in them.

Weights are read once a token, and looking up the addresses of 4 KiB pages costs up to a quarter of
the time. Linux reads a mapped file into large pages when it is asked to before the pages are in its
cache, and where the file system has them; what is in the cache stays as it is.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from pathlib import Path


def prefer_large_pages(mapped: mmap.mmap) -> None:
    """To be asked for as soon as a file is mapped, before anything of it is read."""
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            mapped.madvise(mmap.MADV_HUGEPAGE)


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
