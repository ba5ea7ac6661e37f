"""What is left where Ctrl-C ends a build or an export. Knows no stage and no terminal."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from arkinfer.compiler.cache import Cache


@contextmanager
def told_if_stopped(output: Path, cache: Cache) -> Generator[None, None, None]:
    """A KeyboardInterrupt out of the block carries, as its argument, a sentence on what is left.

    Args:
        output: the file or folder that the block makes, under its name only when it is whole.
        cache: what keeps finished work.
    """
    before = _identity(output)
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.args = (_left(output, before, cache),)
        raise


def _left(output: Path, before: tuple[int, int] | None, cache: Cache) -> str:
    now = _identity(output)
    if now is not None and now != before:
        return f'"{output}" is whole already'
    left = f'"{output}" was not written'
    if now is not None:
        left += "; what had that name before is as it was"
    kept = "goes on from what is in the cache" if cache.folder is not None else "begins anew"
    return f"{left}. The same command {kept}"


def _identity(path: Path) -> tuple[int, int] | None:
    """Tells a file or folder from another one of its name; None: there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
