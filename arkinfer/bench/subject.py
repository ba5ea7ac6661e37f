"""What is measured: an artifact's section, and how to run it. Knows no timing."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arkinfer.artifact import open_artifact
from arkinfer.errors import UsageError
from arkinfer.runtime.demo import located
from arkinfer.runtime.registry import choose_section


@dataclass(frozen=True)
class Subject:
    """A section of an artifact, and how to run it.

    Attributes:
        name: the file as the user called it.
        path: the file.
        backend: whose section.
        threads: worker threads; None: what the backend finds best.
        digest: SHA-256 that names the file's content.
        context: the longest sequence, in tokens.
        section_bytes: bytes of the file that the section reads.
    """

    name: str
    path: Path
    backend: str
    threads: int | None
    digest: str
    context: int
    section_bytes: int

    def command(self, capacity: int, seed: int) -> list[str]:
        """What starts a worker (`arkinfer.bench.worker`) with room for `capacity` tokens."""
        options = {"path": str(self.path), "backend": self.backend, "threads": self.threads,
                   "capacity": capacity, "seed": seed}  # fmt: skip
        return [sys.executable, "-m", "arkinfer.bench.worker", json.dumps(options)]

    def to_json(self) -> dict[str, Any]:
        """What reports say of it."""
        return {
            "path": self.name, "digest": self.digest, "backend": self.backend,
            "threads": self.threads, "section_bytes": self.section_bytes,
        }  # fmt: skip


def subject(file: str, backend: str | None = None, threads: int | None = None) -> Subject:
    """Looks at a file without loading it, so that mistakes are told at once.

    Args:
        file: an .ark file, or "demo".
        backend: whose section; None: the file's first.
        threads: see `Subject`.

    Raises:
        UsageError: no such file, no such section, or an impossible number of threads.
        ArtifactError: the file is damaged or needs a newer arkinfer.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads cannot be {threads}", "", "Give at least 1")
    with open_artifact(located(file)) as artifact:
        section = choose_section(artifact, backend)
        return Subject(
            file, artifact.path, section.backend, threads, artifact.digest,
            artifact.manifest["context"], artifact.section_bytes(section.backend),
        )  # fmt: skip
