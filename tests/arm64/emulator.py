"""Runs Python of 64-bit ARM here, in the folder that `make_root.py` made. Knows no test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.arm64.make_root import CHECKOUT, python

ROOT = CHECKOUT / ".arm64"


@dataclass(frozen=True)
class Emulator:
    """A processor, and what Python finds.

    Attributes:
        cpu: the processor, as qemu calls it; what that lacks ends a program by SIGILL.
        packages: folders of Python packages, before those that arkinfer needs.
    """

    cpu: str
    packages: tuple[Path, ...] = ()
    root: Path = field(default=ROOT)

    def command(self, *words: str | Path) -> list[str]:
        """What runs a program of 64-bit ARM."""
        return [
            str(self.root / "qemu"), "-cpu", self.cpu, "-L", str(self.root / "system"),
            *map(str, words),
        ]  # fmt: skip

    def python(self, *words: str | Path) -> list[str]:
        """What runs Python."""
        return self.command(python(self.root), *words)

    def environ(self) -> Mapping[str, str]:
        """One that names nothing of this machine but folders for files."""
        kept = {key: os.environ[key] for key in ("TMPDIR", "ARKINFER_CACHE") if key in os.environ}
        paths = os.pathsep.join(map(str, (*self.packages, self.root / "packages")))
        return {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/", **kept}

    def run(self, *words: str | Path, seconds: float = 300.0) -> subprocess.CompletedProcess[str]:
        """Runs Python to its end."""
        return subprocess.run(
            self.python(*words), env=self.environ(), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
