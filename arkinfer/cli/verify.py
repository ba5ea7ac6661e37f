"""`arkinfer verify`: no bit of an .ark file changed. Knows no model and runs nothing."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

_INTERVAL = 2.0  # seconds


def verify(
    file: Annotated[Path, typer.Argument(help="The .ark file.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print JSON with stable keys.")] = False,
) -> None:
    """Check every bit of an .ark file; fails naming the first entry that is wrong.

    Example: arkinfer verify model.ark
    """
    from arkinfer.artifact import verify_artifact

    progress = _Progress(str(file))
    try:
        report = verify_artifact(file, progress)
    finally:
        progress.end()
    if json:
        from json import dumps

        facts = {
            "path": str(report.path),
            "ok": True,
            "digest": report.digest,
            "entries": report.entries,
            "hashed": report.hashed,
            "size": report.size,
        }
        print(dumps(facts, indent=2))
        return
    outside = report.size - report.hashed
    print(f"{report.path} is sound.")
    print(f"checked  {report.entries} entries, {report.hashed:,} bytes, by SHA-256 and CRC-32")
    print(f"         {outside:,} bytes around them: headers, padding, directory")
    print(f"digest   sha256 {report.digest}")


class _Progress:
    """Says on standard error how far it is, once it takes long: a line that is rewritten on a
    terminal, a line every now and then elsewhere."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._start = self._said = time.monotonic()
        self._live = sys.stderr.isatty()
        self._open = False

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._said < (0.2 if self._open else _INTERVAL):
            return
        left = (now - self._start) * (total - done) / max(done, 1)
        text = f"Verifying {self._name}: {100 * done // max(total, 1)} %, about {left:.0f} s left"
        self._said, self._open = now, self._live
        print(f"\r{text}\x1b[K" if self._live else text, end="" if self._live else "\n",
              file=sys.stderr, flush=True)  # fmt: skip

    def end(self) -> None:
        if self._open:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
