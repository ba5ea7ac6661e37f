"""Keeps engines, and the timings that building them took, for the next process. Knows no TensorRT.

They lie in the user's cache, where `arkinfer cache` shows and removes them: a file's name is the
SHA-256 of all that it depends on, so that none is ever out of date. A file is

    "ARKENGN1" | bytes of the facts, uint32 | their CRC-32, uint32 | the facts, JSON | zeros

up to a multiple of 4096 bytes, and then the content, whose size and SHA-256 the facts say. It
appears under its name when it is whole and on the disk.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import os
import struct
import time
import zlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

from arkinfer.errors import ResourceError
from arkinfer.limits import LimitError, parse_json
from arkinfer.machine.folders import CACHE, cache_folder
from arkinfer.runtime.contract import OnProgress
from arkinfer.words import duration

Bytes: TypeAlias = "bytes | bytearray | memoryview"

ENGINES, TIMINGS = "engines", "timings"
"""Folders within the cache; `arkinfer.compiler.cache` lists them among its kinds."""

LAYOUT = 1
"""Goes up when the executor builds or binds engines in another way: old ones stay unused."""

PATIENCE = 7200.0
"""Seconds for which one process waits for another one that prepares an engine."""

_MAGIC = b"ARKENGN1"
_HEAD = struct.Struct("<8sII")
_PAGE = 4096
_PAUSE = 0.5


@dataclass(frozen=True)
class EngineKey:
    """What an engine depends on.

    Attributes:
        artifact: `Artifact.digest`.
        tensorrt: version, e.g. "10.16.2".
        sm: compute capability of the GPU, 87 for 8.7.
        device: as `board.Board.device` names it.
        network: the one that was asked for; "": what was measured to be faster.
        weights: "inputs" or "constants" as asked for; "": by the memory that was free.
    """

    artifact: str
    tensorrt: str
    sm: int
    device: str
    network: str = ""
    weights: str = ""


@dataclass(frozen=True)
class Kept:
    """A file of the store.

    Attributes:
        path: where.
        facts: what was noted when it was made.
        content: its bytes, mapped: they are read when they are needed.
    """

    path: Path
    facts: Mapping[str, Any]
    content: memoryview


class Store:
    """The engines of a folder; one that cannot be written gives what it has, and takes nothing.

    Args:
        folder: the cache's; None: the user's own.

    Attributes:
        folder: where.
        notes: what the user should know of it, in sentences.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = cache_folder() if folder is None else folder
        self.notes: list[str] = []

    def facts(self, key: EngineKey) -> Mapping[str, Any] | None:
        """What was noted of an engine that is there; its content is not looked at."""
        found = self._read(self._engine(key), whole=False)
        return None if found is None else found.facts

    def engine(self, key: EngineKey) -> Kept | None:
        """An engine, checked; None: there is none, or it was damaged and is gone."""
        return self._read(self._engine(key))

    def keep_engine(self, key: EngineKey, content: Bytes, facts: Mapping[str, Any]) -> Path | None:
        """Puts an engine there under all that it depends on.

        Args:
            key: of the engine.
            content: serialized.
            facts: plain values to note; "size", "sha256" and "key" are added.

        Returns:
            Its file; None: the folder does not take it, and `notes` say why.
        """
        return self._keep(self._engine(key), content, {**facts, "key": list(astuple(key))})

    def timings(self, key: EngineKey) -> bytes:
        """TensorRT's timing cache for its version and this device; b"" where there is none."""
        found = self._read(self._timings(key))
        return b"" if found is None else bytes(found.content)

    def keep_timings(self, key: EngineKey, content: Bytes) -> None:
        """Puts a timing cache in the place of the one that was there."""
        self._keep(self._timings(key), content, {})

    def stale(self, key: EngineKey) -> list[str]:
        """What engines of the same artifact were made for, that this one cannot use: e.g.
        "TensorRT 10.15.1" after an update, or the other board's name where a disk was moved."""
        found: set[str] = set()
        for path in self._folder(ENGINES).glob("[0-9a-f][0-9a-f]/*"):
            kept = self._read(path, whole=False)
            values = None if kept is None else kept.facts.get("key")
            if not isinstance(values, list) or len(cast("list[Any]", values)) != 6:
                continue
            artifact, tensorrt, _, device, *_ = cast("list[Any]", values)
            if artifact == key.artifact and tensorrt != key.tensorrt:
                found.add(f"TensorRT {tensorrt}")
            elif artifact == key.artifact and device != key.device:
                found.add(str(device))
        return sorted(found)

    @contextmanager
    def alone(
        self, on_progress: OnProgress | None = None, patience: float = PATIENCE
    ) -> Generator[None, None, None]:
        """For one process at a time: building takes the memory of a board, and twice is a waste.

        In a folder that cannot be written, or without locks, nobody waits.

        Raises:
            ResourceError: another process has not come to an end within `patience` seconds.
        """
        file = self._lock_file()
        try:
            if file >= 0:
                _lock(file, on_progress, patience)
            yield
        finally:
            if file >= 0:
                os.close(file)

    def _lock_file(self) -> int:
        try:
            folder = self._made(ENGINES)
            return os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return -1

    def _engine(self, key: EngineKey) -> Path:
        return self._folder(ENGINES) / _name(LAYOUT, *astuple(key))

    def _timings(self, key: EngineKey) -> Path:
        return self._folder(TIMINGS) / _name(key.tensorrt, key.sm, key.device)

    def _folder(self, kind: str) -> Path:
        return self.folder / kind

    def _made(self, kind: str) -> Path:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = self._folder(kind)
        folder.mkdir(exist_ok=True)
        return folder

    def _read(self, path: Path, *, whole: bool = True) -> Kept | None:
        try:
            with path.open("rb") as file:
                content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
                if whole:
                    with suppress(OSError):  # a read-only disk, or another user's file
                        os.utime(file.fileno())
        except (OSError, ValueError):  # none, or an empty one
            return None
        try:
            facts, start = _facts(content)
            if len(content) - start != facts["size"]:
                raise ValueError("its size")
            if whole and hashlib.sha256(content[start:]).hexdigest() != facts["sha256"]:
                raise ValueError("its content")
        except (LookupError, TypeError, ValueError, struct.error):
            self._note(f'"{path}" was damaged; it is made again')
            with suppress(OSError):
                path.unlink()
            return None
        return Kept(path, facts, content[start:])

    def _keep(self, path: Path, content: Bytes, facts: Mapping[str, Any]) -> Path | None:
        try:
            self._made(path.parent.parent.name)
            path.parent.mkdir(exist_ok=True)
            temporary = self._made("tmp") / f"{os.getpid()}-{os.urandom(4).hex()}"
            _write(temporary, path, content, facts)
            return path
        except OSError as error:
            why = os.strerror(error.errno or 0)
            self._note(
                f'The engine is not kept: "{self.folder}" cannot be written ({why}). {CACHE} can '
                "name another folder"
            )
            return None

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)


def _name(*facts: object) -> str:
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return f"{digest[:2]}/{digest[2:]}"


def _facts(file: memoryview) -> tuple[dict[str, Any], int]:
    """What a file says of itself, and where its content begins.

    Raises:
        ValueError, struct.error: it is no such file.
    """
    magic, size, checksum = _HEAD.unpack_from(file)
    text = bytes(file[_HEAD.size : _HEAD.size + size])
    if magic != _MAGIC or zlib.crc32(text) != checksum:
        raise ValueError("its head")
    try:
        facts: Any = parse_json(text)
    except LimitError as error:
        raise ValueError(str(error)) from error
    if not isinstance(facts, dict):
        raise ValueError("its facts")
    return cast("dict[str, Any]", facts), _start(size)


def _start(size: int) -> int:
    return -(-(_HEAD.size + size) // _PAGE) * _PAGE


def _write(temporary: Path, path: Path, content: Bytes, facts: Mapping[str, Any]) -> None:
    """A whole file at once; while it has another name it is locked, as in use."""
    data = memoryview(content).cast("B")
    digest = hashlib.sha256(data).hexdigest()
    text = json.dumps({**facts, "size": len(data), "sha256": digest}).encode()
    head = _HEAD.pack(_MAGIC, len(text), zlib.crc32(text)) + text
    with temporary.open("xb") as file:
        try:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            file.write(head.ljust(_start(len(text)), b"\0"))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    with suppress(OSError):  # a power cut may still take the name, never half of the file
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _owner(file: int) -> str:
    """Of the lock: "process 4711"."""
    number = os.pread(file, 20, 0).decode("ascii", "replace").strip()
    return f"process {number}" if number.isdecimal() else "another process"


def _lock(file: int, on_progress: OnProgress | None, patience: float) -> None:
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            owner = _owner(file)
        except OSError:
            return  # a file system without locks
        if time.monotonic() >= end:
            raise ResourceError(
                "Another process prepares an engine, and does not come to an end",
                f"{owner[:1].upper()}{owner[1:]} has been at it for more than {duration(patience)}",
                "End it, and try again",
            )
        if on_progress is not None:
            on_progress(f"Waiting for {owner}, which prepares an engine", 0, 0)
        time.sleep(min(_PAUSE, max(0.0, end - time.monotonic())))
    os.ftruncate(file, 0)
    os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
