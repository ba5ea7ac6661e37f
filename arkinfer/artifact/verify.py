"""Checks that no bit of an .ark file changed since it was written. Knows no model.

Every entry is compared with its SHA-256 and CRC-32, and every byte outside the entries with the
one that the canonical layout puts there. A signature has its CRC-32 and one form only.
"""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from arkinfer.artifact.layout import MANIFEST, SIGNATURE, Entry, local_header
from arkinfer.artifact.minisign import FormatError, parse_signature
from arkinfer.artifact.reader import Artifact, damaged

BUFFER = 2 << 20
"""Bytes that a thread reads at a time: in a core's own cache both checksums find them again."""

MAX_THREADS = 8


@dataclass(frozen=True)
class VerifyReport:
    """What was found sound.

    Attributes:
        path: the file.
        digest: SHA-256 of manifest.json, hexadecimal; equal digests mean equal contents.
        entries: number of entries, manifest.json among them.
        hashed: bytes of the entries.
        size: bytes of the file, all of them checked.
    """

    path: Path
    digest: str
    entries: int
    hashed: int
    size: int


def verify_artifact(
    path: str | Path,
    progress: Callable[[int, int], None] | None = None,
    *,
    threads: int | None = None,
) -> VerifyReport:
    """Checks every bit of a file, in one pass and bounded memory.

    Args:
        path: an .ark file.
        progress: called with the bytes done and the bytes in all, every 2 MiB; never by two
            threads at once.
        threads: that read and hash, an entry each; None: as many as the machine has, up to 8.

    Raises:
        ArtifactError: naming the first entry that is wrong.
        UsageError, ResourceError: as `Artifact`.
    """
    with Artifact(path) as artifact:
        entries = artifact.entries()
        workers = threads or min(MAX_THREADS, _cores(), 1 + artifact.size // BUFFER)
        _Check(artifact, progress).run(workers)
        hashed = sum(entry.size for entry in entries)
        return VerifyReport(artifact.path, artifact.digest, len(entries), hashed, artifact.size)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Check:
    def __init__(self, artifact: Artifact, progress: Callable[[int, int], None] | None) -> None:
        self._artifact, self._progress = artifact, progress
        self._lock, self._done, self._stopped = threading.Lock(), 0, False
        self._local = threading.local()

    def run(self, workers: int) -> None:
        """Entries in file order, so that the disk is read from front to back."""
        entries = self._artifact.entries()
        self._artifact.advise_sequential()
        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(self._entry, entry) for entry in entries]
            try:
                for future in futures:
                    future.result()
            finally:
                self._stopped = True
                pool.shutdown(wait=True, cancel_futures=True)

    def _entry(self, entry: Entry) -> None:
        artifact = self._artifact
        sha256, crc = self._sums(entry)
        if entry.name == SIGNATURE:
            wanted = sha256  # vouched for by its form, its CRC-32, and whoever checks it
            try:
                parse_signature(artifact.read(SIGNATURE))
            except FormatError as error:
                raise damaged(artifact.path, f'in the entry "{SIGNATURE}", {error}') from None
        elif entry.name == MANIFEST:
            wanted = artifact.digest
        else:
            wanted = artifact.manifest["entries"][entry.name]["sha256"]
        if sha256 != wanted:
            raise damaged(artifact.path, f'the entry "{entry.name}" does not match its SHA-256')
        if crc != entry.crc:
            raise damaged(artifact.path, f'the CRC-32 of the entry "{entry.name}" is wrong')
        header = artifact.pread(entry.header, entry.offset - entry.header)
        if header != local_header(entry):
            raise damaged(artifact.path, f'the header of the entry "{entry.name}" is wrong')

    def _sums(self, entry: Entry) -> tuple[str, int]:
        """SHA-256 and CRC-32, both made while a part is in the processor's cache."""
        digest, crc, position = hashlib.sha256(), 0, entry.offset
        buffer = self._buffer()
        while position < entry.end and not self._stopped:
            part = buffer[: min(BUFFER, entry.end - position)]
            self._artifact.read_into(part, position)
            digest.update(part)
            crc = zlib.crc32(part, crc)
            position += len(part)
            self._tell(len(part))
        return digest.hexdigest(), crc

    def _buffer(self) -> memoryview:
        if not hasattr(self._local, "buffer"):
            self._local.buffer = memoryview(bytearray(BUFFER))
        return self._local.buffer

    def _tell(self, size: int) -> None:
        with self._lock:
            self._done += size
            if self._progress is not None:
                self._progress(self._done, self._artifact.size)
