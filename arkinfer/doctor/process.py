"""Runs a program that may crash, hang or flood us, and says how it ended. Knows no check."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import cast

KEPT = 1 << 16
"""Bytes of a program's output that are kept, the last ones."""

_COMPLAINT = re.compile(r"error|cannot|not found|no such file", re.IGNORECASE)


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Attributes:
        code: its exit code; None: it did not end by itself, or never started.
        out: the end of its standard output, text.
        err: the end of its standard error, text.
        problem: "" when it ended with code 0, else why not, as a clause.
        hung: whether it was stopped because its time was over.
    """

    code: int | None
    out: str
    err: str
    problem: str = ""
    hung: bool = False

    @property
    def ok(self) -> bool:
        return not self.problem

    @property
    def complaint(self) -> str:
        """The first line of its standard error that names an error, else its last line; or ""."""
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        named = (line for line in lines if _COMPLAINT.search(line))
        return next(named, lines[-1] if lines else "")


def run(
    command: Sequence[str | Path],
    *,
    seconds: float,
    environ: Mapping[str, str],
    folder: Path | None = None,
) -> Outcome:
    """Runs a program without standard input; whatever it started ends with it.

    Args:
        command: its path and arguments.
        seconds: for which it may run.
        environ: all of its environment.
        folder: where it runs; None: here.
    """
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        return Outcome(None, "", "", f"it could not be started: {reason}")
    kept: list[bytearray] = [bytearray(), bytearray()]
    readers = [
        threading.Thread(target=_keep_end, args=(cast(BufferedReader, pipe), end), daemon=True)
        for pipe, end in zip((process.stdout, process.stderr), kept, strict=True)
    ]
    for reader in readers:
        reader.start()
    try:
        code: int | None = process.wait(seconds)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        _end(process)
    for reader in readers:
        reader.join(1.0)  # a grandchild that left the group may still hold the pipe
    out, err = (bytes(end).decode("utf-8", "replace") for end in kept)
    return Outcome(code if code is None or code >= 0 else None, out, err, *_problem(code, seconds))


def _problem(code: int | None, seconds: float) -> tuple[str, bool]:
    if code is None:
        return f"it did not end within {seconds:g} s", True
    if code < 0:
        return f"it crashed ({_signal(-code)})", False
    return (f"it failed with exit code {code}" if code else ""), False


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _keep_end(pipe: BufferedReader, end: bytearray) -> None:
    with pipe:
        while part := pipe.read1(KEPT):
            end += part
            del end[:-KEPT]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and the rest of its group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()
