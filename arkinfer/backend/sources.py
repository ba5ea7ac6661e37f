"""The version of code that makes what builds keep: its sources' digest. Knows no backend."""

from __future__ import annotations

import hashlib
from pathlib import Path


def digest_of(folder: Path, suffixes: tuple[str, ...] = (".py",)) -> str:
    """SHA-256 of the names and contents of the files in and below a folder that end so."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.suffix in suffixes:
            content = file.read_bytes()
            digest.update(f"{file.relative_to(folder).as_posix()} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()
