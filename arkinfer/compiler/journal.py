"""What a build is doing, kept on disk, so that the next build can tell how this one ended.

One small file per running build, in the cache's folder; its owner holds a lock on it, and takes it
away however the build ends, unless the process is killed. Knows no build.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

_SIZE = 1024
"""Of the file, in bytes: it is overwritten by one write, which a kill does not split."""


class Journal:
    """The journal of one build; a context manager.

    Args:
        folder: where journals are; None, or one that cannot be written: nothing is kept.
        output: the file that is built.

    Attributes:
        found: sentences about an earlier build of that file that was killed, or another one that
            is running.
    """

    def __init__(self, folder: Path | None, output: Path) -> None:
        self.found: list[str] = []
        self._output = output
        self._path, self._file, self._last = None, -1, ""
        if folder is None:
            return
        place = os.path.realpath(output).encode(errors="surrogateescape")
        stem = hashlib.sha256(place).hexdigest()[:16]
        with suppress(OSError):
            self._read_others(folder, stem)
            path = folder / f"{stem}.{os.getpid()}-{os.urandom(4).hex()}.json"
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._path = path
            with suppress(OSError):  # a file system without locks
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def note(self, doing: str) -> None:
        """Writes down what is being done: "tracing the model"."""
        if self._file < 0 or doing == self._last:
            return
        self._last = doing
        facts = {"process": os.getpid(), "output": str(self._output)[-300:], "doing": doing[:300]}
        with suppress(OSError):  # a full disk
            os.pwrite(self._file, json.dumps(facts).encode().ljust(_SIZE), 0)

    def close(self) -> None:
        """Takes the journal away; may be called again."""
        if self._file >= 0:
            with suppress(OSError):
                os.unlink(self._path or "")
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_others(self, folder: Path, stem: str) -> None:
        killed: list[tuple[float, str]] = []
        for path in folder.glob(f"{stem}.*.json"):
            with suppress(OSError):  # gone just now
                written = path.stat().st_mtime
                facts, alive = _read(path)
                doing = str(facts.get("doing", "starting"))
                if alive:
                    self.found.append(
                        f'Another build of "{self._output}" is running (process '
                        f"{facts.get('process', 'unknown')}, {doing}); the one that ends last "
                        "stays."
                    )
                else:
                    killed.append((written, doing))
        if killed:
            doing = max(killed)[1]
            self.found.append(
                f'The last build of "{self._output}" was killed while {doing}; '
                "what it had finished is reused."
            )


def remove_dead(folder: Path) -> int:
    """Removes the journals of killed builds, of whatever file; how many there were."""
    dead = [path for path in folder.glob("*.json") if not _read(path)[1]]
    return len(dead)


def _read(path: Path) -> tuple[dict[str, Any], bool]:
    """What a journal says, and whether its build lives; one of a dead build is taken away."""
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            facts = json.loads(os.pread(file, _SIZE, 0))
        except ValueError:  # killed before its first word
            facts = {}
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return facts, True
        path.unlink(missing_ok=True)
        return facts, False
    finally:
        os.close(file)
