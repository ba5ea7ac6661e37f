"""Finished work that later builds reuse, by the content that it was made from. Knows no work.

An entry is a file whose name is the SHA-256 of all that determines it, so that it is never out of
date; its content ends with its own SHA-256, so that one that was torn or damaged is never used.
That check is also why nothing is flushed to the disk here: after a power cut an entry is whole,
or it is made again. Builds share a cache without locks: entries appear by renaming.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from arkinfer.errors import InternalError, UsageError
from arkinfer.machine.folders import cache_folder

Bytes: TypeAlias = "bytes | bytearray | memoryview"

KINDS = (
    "graphs", "weights", "blocks", "states", "calibrations", "golden", "quality", "works",
    "engines", "timings",
)  # fmt: skip
"""What is kept: traced modules, rows of quantized weights, decoder layers that a calibrated method
quantized, activations behind the last of these, scales of int8 caches and what 8 bits of their
input cost products, golden vectors, what quantization costs, and what backends compile; each in a
folder of its own. The last two are the TensorRT executor's: engines, and its builder's timings."""

LIMIT = "ARKINFER_CACHE_LIMIT"
"""The environment variable with its size limit ("20GB"); `machine.folders` says where it is."""

DEFAULT_LIMIT = 20_000_000_000
SPARE = 256 << 20
"""Bytes that a cache leaves free on its disk, beside what its user asks for."""

_DIGEST = 32
_TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# Made by arkinfer; may be deleted.\n"
_NAME = re.compile(r"[0-9a-f]{62}")
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
          "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One file of a cache.

    Attributes:
        kind: one of `KINDS`.
        path: the file.
        size: its bytes.
        used: when it was last made or read, in seconds since 1970.
    """

    kind: str
    path: Path
    size: int
    used: float


class Cache:
    """A folder of entries; one that cannot be used is empty and stays so, and says why.

    Args:
        folder: where; it is made. None: a cache that is off.
        limit: the most bytes of all entries.

    Attributes:
        folder: None when the cache is off.
        limit: bytes.
        problem: a sentence for the user when the cache is off against their will, or no longer
            takes entries; else "".
    """

    def __init__(self, folder: Path | None, limit: int = DEFAULT_LIMIT) -> None:
        self.folder, self.limit, self.problem = folder, limit, ""
        self._spare = SPARE
        self._takes = folder is not None
        self._used: set[Path] = set()
        self._old: list[Entry] | None = None  # evictable, the least recently used last
        self._total = 0
        if folder is not None:
            try:
                _make_folder(folder)
                remove_stale(folder / "tmp")
            except OSError as error:
                self.folder, self._takes = None, False
                self.problem = _sentence(f'There is no cache: "{folder}" cannot be used', error)

    @classmethod
    def open(cls) -> Cache:
        """The user's cache; see `machine.folders.cache_folder` and `cache_limit`.

        Raises:
            UsageError: the limit in the environment is no size.
        """
        return cls(cache_folder(), cache_limit())

    def get(self, key: str) -> bytearray | None:
        """The bytes of an entry, checked; None: there is none, or it was damaged and is gone."""
        if self.folder is None:
            return None
        path = self.folder / key
        try:
            with path.open("rb", buffering=0) as file:
                data = bytearray(os.fstat(file.fileno()).st_size)
                whole = file.readinto(data) == len(data)
                digest = hashlib.sha256(memoryview(data)[:-_DIGEST]).digest()
                if not whole or digest != bytes(data[-_DIGEST:]):
                    path.unlink(missing_ok=True)
                    return None
                with suppress(OSError):  # another user's entry
                    os.utime(file.fileno())
        except OSError:
            return None
        self._used.add(path)
        del data[-_DIGEST:]
        return data

    def put(self, key: str, chunks: Iterable[Bytes]) -> None:
        """Keeps an entry. A cache that is full or broken takes none, and its user need not care.

        Args:
            key: as `key_of` makes it.
            chunks: the bytes, in pieces.
        """
        if self.folder is None or not self._takes:
            return
        path = self.folder / key
        pieces = list(chunks)
        size = sum(len(piece) for piece in pieces) + _DIGEST
        try:
            if not self._make_room(size):
                self._takes = False
                self.problem = (
                    f'The cache "{self.folder}" takes no more: it holds {self._total:,} bytes of '
                    f"at most {self.limit:,}, and {self._free():,} are free on its disk."
                )
                return
            path.parent.mkdir(exist_ok=True)
            _write(self.folder / "tmp", path, pieces)
            self._used.add(path)
            self._total += size
        except FileNotFoundError:
            return  # somebody clears the cache just now
        except OSError as error:
            self._takes = False
            self.problem = _sentence(f'The cache "{self.folder}" takes no more', error)

    def drop(self, key: str) -> None:
        """Takes an entry away that nobody will ask for."""
        if self.folder is not None:
            path = self.folder / key
            with suppress(OSError):
                size = path.stat().st_size
                path.unlink()
                self._total -= size if path in self._used else 0
                self._used.discard(path)

    def keep_free(self, size: int) -> None:
        """Leaves that many bytes of its disk to the caller from now on."""
        self._spare = SPARE + size

    def entries(self) -> Iterator[Entry]:
        """All of them, in no order."""
        for kind in KINDS if self.folder is not None else ():
            for path in (Path(self.folder or "") / kind).glob("[0-9a-f][0-9a-f]/*"):
                with suppress(OSError):  # another build has just pruned it
                    if _NAME.fullmatch(path.name):
                        facts = path.stat()
                        yield Entry(kind, path, facts.st_size, facts.st_mtime)

    def prune(self, limit: int, older_than: float | None = None) -> tuple[int, int]:
        """Drops entries, the least recently used first, until at most `limit` bytes are left.

        Args:
            limit: bytes.
            older_than: seconds; whatever was not used for longer is dropped, too.

        Returns:
            How many entries went, and their bytes.
        """
        entries = sorted(self.entries(), key=lambda entry: entry.used)
        total = sum(entry.size for entry in entries)
        oldest = -1.0 if older_than is None else time.time() - older_than
        count = freed = 0
        for entry in entries:
            if total - freed > limit or entry.used < oldest:
                with suppress(FileNotFoundError):
                    entry.path.unlink()
                    count, freed = count + 1, freed + entry.size
        return count, freed

    def _free(self) -> int:
        return shutil.disk_usage(self.folder or ".").free

    def _make_room(self, size: int) -> bool:
        """Drops what this cache's user has not used, the least recently used first.

        What was used stays: a build larger than the limit would otherwise drop what the next
        one asks for first.
        """
        if self._old is None:
            self._old = sorted(self.entries(), key=lambda entry: -entry.used)
            self._total = sum(entry.size for entry in self._old)
        missing = max(self._total + size - self.limit, self._spare + size - self._free())
        while missing > 0 and self._old:
            entry = self._old.pop()
            with suppress(OSError):
                if entry.path in self._used or entry.path.stat().st_mtime != entry.used:
                    continue  # in use, here or by another build
                entry.path.unlink()
            self._total -= entry.size
            missing -= entry.size
        return missing <= 0


def key_of(kind: str, *facts: Bytes | npt.NDArray[Any] | str | int | float | bool | None) -> str:
    """The name of an entry: by all that determines its content, in a fixed order.

    Args:
        kind: one of `KINDS`.
        facts: inputs, options, versions; an array counts with dtype, shape and content.

    Raises:
        InternalError: there is no such kind, so that nothing would be kept.
    """
    if kind not in KINDS:
        raise InternalError(f'A cache keeps nothing of the kind "{kind}"')
    digest = hashlib.sha256()
    for fact in facts:
        if isinstance(fact, np.ndarray):
            digest.update(f"array {fact.dtype} {fact.shape}\n".encode())
            digest.update(np.ascontiguousarray(fact).reshape(-1).view(np.uint8).data)
        elif isinstance(fact, bytes | bytearray | memoryview):
            digest.update(f"bytes {len(fact)}\n".encode())
            digest.update(fact)
        else:
            text = repr(fact).encode()
            digest.update(f"{len(text)}\n".encode() + text)
    name = digest.hexdigest()
    return f"{kind}/{name[:2]}/{name[2:]}"


@lru_cache
def code_of(*parts: str) -> str:
    """The version of what packages ("ir") and files of arkinfer compute: their source's SHA-256."""
    digest = hashlib.sha256()
    home = Path(__file__).parents[1]
    for part in parts:
        place = home / part
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            content = file.read_bytes()
            digest.update(f"{file.relative_to(home).as_posix()} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()


@lru_cache
def arithmetic() -> str:
    """What sums of floats depend on beside their inputs: numpy, and the instructions it may use."""
    flags = ""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        found = re.search(r"^(?:flags|Features)\s*: (.*)$", text, re.M)
        flags = " ".join(sorted(found[1].split())) if found else ""
    return f"numpy {np.__version__} {platform.machine()} {flags}"


def cache_limit() -> int:
    """$ARKINFER_CACHE_LIMIT in bytes, else 20 GB.

    Raises:
        UsageError: it is no size.
    """
    given = os.environ.get(LIMIT)
    return parse_size(given, LIMIT) if given else DEFAULT_LIMIT


def parse_size(text: str, what: str) -> int:
    """Bytes of "500MB", "1.5 GiB" or "1000".

    Raises:
        UsageError: it is no size; names `what` was given it.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].upper() not in _UNITS:
        raise UsageError(f'{what} cannot be "{text}"', "It is a size", "Write it like 5GB or 500MB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _make_folder(folder: Path) -> None:
    """Makes the cache's folders and finds out whether they can be written."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in (*KINDS, "tmp", "builds"):
        (folder / name).mkdir(exist_ok=True)
    if not os.access(folder / "tmp", os.W_OK | os.X_OK):
        (folder / "tmp" / "write-test").touch()  # for its error
    tag = folder / "CACHEDIR.TAG"  # backups leave it out; see bford.info/cachedir
    if not tag.exists():
        tag.write_bytes(_TAG)


def _write(temporary: Path, path: Path, pieces: list[Bytes]) -> None:
    """A file under its name at once; it is locked while it has another, as in use."""
    own = temporary / f"{os.getpid()}-{os.urandom(4).hex()}"
    with own.open("xb") as file:
        try:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            digest = hashlib.sha256()
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
            file.write(digest.digest())
            file.flush()
            os.replace(own, path)
        except BaseException:
            own.unlink(missing_ok=True)
            raise


def remove_stale(folder: Path) -> list[Path]:
    """Removes the files of a folder whose owners are dead: nobody holds their lock."""
    gone: list[Path] = []
    for path in folder.iterdir():
        with suppress(OSError):  # another process's, or a file system without locks
            file = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
                gone.append(path)
            finally:
                os.close(file)
    return gone


def _sentence(what: str, error: OSError) -> str:
    return f"{what}: {os.strerror(error.errno or 0)}."
