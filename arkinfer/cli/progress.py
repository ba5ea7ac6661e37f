"""Says on standard error how far a long task is. Knows no task."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

_INTERVAL = 2.0  # seconds


class Progress:
    """Called with what is done and what there is in all, it speaks up once it takes long: a line
    that is rewritten on a terminal, a line every now and then elsewhere.

    Args:
        what: the task, e.g. "Verifying model.ark".
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._start = self._said = time.monotonic()
        self._live = sys.stderr.isatty()
        self._open = False

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._said < (0.2 if self._open else _INTERVAL):
            return
        left = (now - self._start) * (total - done) / max(done, 1)
        text = f"{self._what}: {100 * done // max(total, 1)} %, about {left:.0f} s left"
        self._said, self._open = now, self._live
        print(f"\r{text}\x1b[K" if self._live else text, end="" if self._live else "\n",
              file=sys.stderr, flush=True)  # fmt: skip

    def end(self) -> None:
        """Takes the line away."""
        if self._open:
            self._open = False
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


@contextmanager
def announced(what: str) -> Generator[None, None, None]:
    """Says what goes on, if it takes long and nobody can know how far it is."""
    timer = threading.Timer(_INTERVAL, print, [f"{what} …"], {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
