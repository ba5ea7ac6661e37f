"""Says on standard error how far a long task is. Knows no task."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from arkinfer.words import duration

if TYPE_CHECKING:
    from typing_extensions import Self

_FIRST = 2.0
"""Seconds for which a task is silent."""

_LIVE = 0.5
"""Seconds between two rewritings of the line on a terminal."""

_PAUSES = (2.0, 5.0, 10.0, 30.0)
"""Seconds between two lines elsewhere; the last one from then on."""


class Progress:
    """Speaks up once a task takes long: a line that is rewritten on a terminal, a line every now
    and then elsewhere, also while the task itself says nothing.

    Called with what is done and what there is in all. Use it as a context manager, or call `end`.

    Args:
        what: the task, e.g. "Verifying model.ark".
        expected: seconds that it took before, for as long as nothing else is known; 0: unknown.

    Attributes:
        what: the task, which may go by another name from some moment on.
    """

    def __init__(self, what: str, *, expected: float = 0.0) -> None:
        self.what, self._expected = what, expected
        self._start = time.monotonic()
        self._done = self._total = 0
        self._first: tuple[float, int] | None = None
        self._stream: TextIO = sys.stderr
        self._live = self._stream.isatty()
        self._open = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True)
        self._thread.start()

    def __call__(self, done: int, total: int) -> None:
        self._done, self._total = done, total
        if self._first is None:
            self._first = (time.monotonic(), done)

    def end(self) -> None:
        """Takes the line away; may be called again."""
        self._over.set()
        self._thread.join()
        if self._open:
            self._open = False
            print("\r\x1b[K", end="", file=self._stream, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def line(self, now: float) -> str:
        """What there is to say at a moment of `time.monotonic`."""
        spent = now - self._start
        if self._total:
            text = f"{self.what}: {100 * self._done // self._total} %"
            began, before = self._first or (self._start, 0)
            if self._done <= before:
                return text
            left = (now - began) * (self._total - self._done) / (self._done - before)
            return f"{text}, about {duration(left)} left"
        if self._expected:
            left = max(0.0, self._expected - spent)
            return f"{self.what}: {duration(spent)} so far, about {duration(left)} left"
        return f"{self.what}: {duration(spent)} so far; how long it takes is not known"

    def _tell(self) -> None:
        pauses = iter(_PAUSES)
        pause = _FIRST
        while not self._over.wait(pause):
            pause = _LIVE if self._live else next(pauses, _PAUSES[-1])
            if 0 < self._total <= self._done:
                continue  # what comes now is another task's
            text = self.line(time.monotonic())
            self._open = self._live
            try:
                if self._live:
                    print(f"\r{text}\x1b[K", end="", file=self._stream, flush=True)
                else:
                    print(text, file=self._stream, flush=True)
            except (OSError, ValueError):
                return  # nobody listens any more


class Steps:
    """A line of progress for each thing that is done, one after the other; a context manager.

    Args:
        first: what is done first, of which nobody knows how far it is; "": nothing yet.
    """

    def __init__(self, first: str = "") -> None:
        self._what = first
        self._line = Progress(first) if first else None

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._line is None or what != self._what:
            self.end()
            self._what, self._line = what, Progress(what)
        if total:
            self._line(done, total)

    def end(self) -> None:
        """Takes the line away; may be called again."""
        if self._line is not None:
            self._line.end()
            self._line = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def say(sentence: str) -> None:
    """A sentence that stays."""
    print(f"note: {sentence}", file=sys.stderr, flush=True)


@contextmanager
def announced(what: str) -> Generator[None, None, None]:
    """Says what goes on, if it takes long and nobody can know how far it is."""
    with Progress(what):
        yield
