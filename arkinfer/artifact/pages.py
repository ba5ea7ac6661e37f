"""Asks the system to keep files in pages of 2 MiB. Knows nothing of what is in them.

Weights are read once a token, and looking up the addresses of 4 KiB pages costs up to a quarter of
the time. Linux reads a mapped file into large pages when it is asked to before the pages are in its
cache, and where the file system has them; what is in the cache stays as it is.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress


def prefer_large_pages(mapped: mmap.mmap) -> None:
    """To be asked for as soon as a file is mapped, before anything of it is read."""
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            mapped.madvise(mmap.MADV_HUGEPAGE)


def forget(file: int) -> None:
    """Takes an open file that is safe on the disk out of the page cache.

    It was written in small pieces and would stay there in small pages: whoever maps it next reads
    it into large ones.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
