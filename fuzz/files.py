"""What targets share: a folder in memory for one input, and the check of an error's text."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from arkinfer.errors import ArkError

DEMO = Path(__file__).parents[1] / "arkinfer" / "demo"


@cache
def folder() -> Path:
    """A folder of this process, in memory where the system has such; removed at its end."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    made = Path(tempfile.mkdtemp(prefix="arkinfer-fuzz-", dir=memory))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def file(name: str, data: bytes) -> Path:
    """A file with these bytes."""
    path = folder() / name
    path.write_bytes(data)
    return path


@contextmanager
def refusing(*kinds: type[ArkError]) -> Iterator[None]:
    """Lets a reader refuse its input: with an error of these kinds, in printable sentences."""
    try:
        yield
    except kinds as error:
        check_message(error)


def check_message(error: ArkError) -> None:
    """Raises AssertionError unless the message is made of printable sentences."""
    text = str(error)
    assert error.what, "it does not say what happened"
    assert len(text) < 16_000, f"too long: {text!r}"
    assert text.replace("\n", "").isprintable(), f"not printable: {text!r}"
    assert text.endswith((".", "?", "!")), f"not a sentence: {text!r}"
