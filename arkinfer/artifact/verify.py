"""Checks that no bit of an .ark file changed since it was written. Knows no model.

Every entry is compared with its SHA-256, and every byte outside the entries with the one that the
canonical layout puts there.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from arkinfer.artifact.layout import Entry, local_header
from arkinfer.artifact.reader import Artifact, damaged

_BUFFER = 4 << 20


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
    path: str | Path, progress: Callable[[int, int], None] | None = None
) -> VerifyReport:
    """Checks every bit of a file, in one pass and bounded memory.

    Args:
        path: an .ark file.
        progress: called with the bytes done and the bytes in all, every 4 MiB.

    Raises:
        ArtifactError: naming the first entry that is wrong.
        UsageError, ResourceError: as `Artifact`.
    """
    with Artifact(path) as artifact:
        entries = artifact.entries()
        for entry in entries:
            _check(artifact, entry, progress)
        hashed = sum(entry.size for entry in entries)
        return VerifyReport(artifact.path, artifact.digest, len(entries), hashed, artifact.size)


def _check(artifact: Artifact, entry: Entry, progress: Callable[[int, int], None] | None) -> None:
    digest, crc, position = hashlib.sha256(), 0, entry.offset
    while position < entry.end:
        data = artifact.pread(position, min(_BUFFER, entry.end - position))
        digest.update(data)
        crc = zlib.crc32(data, crc)
        position += len(data)
        if progress is not None:
            progress(position, artifact.size)
    listed = artifact.manifest["entries"].get(entry.name)
    sha256 = artifact.digest if listed is None else listed["sha256"]
    if digest.hexdigest() != sha256:
        raise damaged(artifact.path, f'the entry "{entry.name}" does not match its SHA-256')
    if crc != entry.crc:
        raise damaged(artifact.path, f'the CRC-32 of the entry "{entry.name}" is wrong')
    header = artifact.pread(entry.header, entry.offset - entry.header)
    if header != local_header(entry):
        raise damaged(artifact.path, f'the header of the entry "{entry.name}" is wrong')
