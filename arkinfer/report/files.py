"""Writes a file whole or not at all. Knows no report and no command."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from arkinfer.errors import ArkError, ResourceError, UsageError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text; see `whole_file`."""
    with whole_file(path) as stream:
        stream.write(text.encode(errors="replace"))


@contextmanager
def whole_file(path: str | Path) -> Generator[IO[bytes]]:
    """A file that grows under a temporary name in its folder, and has its own when it is whole.

    Nothing is left behind when the block fails.

    Raises:
        UsageError: the folder is missing, or the path is no ordinary file.
        ResourceError: the folder may not be written, or the disk is full.
    """
    target = check_place(path)
    temporary: str | None = None
    try:
        file, temporary = tempfile.mkstemp(".tmp", f".{target.name}.", target.parent)
        with open(file, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise _disk_error(error, path) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)


def check_place(path: str | Path) -> Path:
    """The file that `whole_file` would write; for asking before long work.

    Raises:
        UsageError: see `whole_file`.
    """
    target = Path(os.path.realpath(path))  # a link is followed, not replaced
    if not target.parent.is_dir():
        raise UsageError(
            f'"{path}" cannot be written', f'There is no folder "{target.parent}"', "Make it first"
        )
    if target.exists() and not target.is_file():
        raise UsageError(
            f'"{path}" cannot be written', "It is not an ordinary file", "Give the name of a file"
        )
    return target


def write_page(path: str | Path, html: str) -> None:
    """Writes what `page` made; as `write_text`."""
    write_text(path, html)


def _umask() -> int:
    """The permissions that new files do not get; it can be read by setting it only."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _disk_error(error: OSError, path: str | Path) -> ArkError:
    if error.errno in _FULL:
        return ResourceError(f'"{path}" cannot be written', "The disk is full", "Free some space")
    return ResourceError(
        f'"{path}" cannot be written',
        error.strerror or str(error),
        "Check the folder's permissions, or name another file",
    )
