"""The stages of a build: timed, told to its caller, noted in its journal. Knows no stage.

How long stages took is kept in the cache's folder, by the model's size, as an estimate for the
next build where nothing else tells how far a stage is.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from arkinfer.compiler.journal import Journal
from arkinfer.compiler.progress import OnProgress, Progress

_WORTH = 1.0
"""Seconds from which on a stage is remembered; quicker ones were done from the cache."""

_KEPT = 8
"""Sizes of models that are remembered for each stage."""


class Stages:
    """What one build is doing.

    Args:
        on_progress: told about it.
        folder: of the cache, for the times of earlier builds; None: there are none.

    Attributes:
        seconds: how long each stage took.
        notes: the sentences that were told.
    """

    def __init__(self, on_progress: OnProgress, folder: Path | None) -> None:
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []
        self.work = 0
        self._on_progress = on_progress
        self._journal: Journal | None = None
        self._file = None if folder is None else folder / "timings.json"
        self._known = _load(self._file)
        self._stage, self._began = "", 0.0

    def follow(self, journal: Journal, work: int) -> None:
        """Notes stages in a journal from now on; `work` is the model's size, in parameters."""
        self._journal, self.work = journal, work
        for line in journal.found:
            self.note(line)

    def start(self, stage: str) -> None:
        """Ends the stage before."""
        self.stop()
        self._stage, self._began = stage, time.monotonic()
        self.doing(stage)
        self._on_progress(Progress(stage, seconds=self._expected(stage)))

    def stop(self) -> None:
        """Ends the last stage."""
        if self._stage:
            spent = time.monotonic() - self._began
            self.seconds[self._stage] = round(self.seconds.get(self._stage, 0) + spent, 3)
            self._stage = ""

    def go_on(self) -> None:
        """Tells that the stage is not over, after a part of it that was counted."""
        self._on_progress(Progress(self._stage, seconds=self._left()))

    def step(self, what: str, done: int, total: int) -> None:
        """Tells what is done next, and how many of how many such things are done."""
        step = f"{what} ({done + 1} of {total})" if total > 1 else what
        self.doing(step)
        counted = (done, total) if done else (0, 0)  # before the first, earlier builds know more
        self._on_progress(Progress(self._stage, *counted, seconds=self._left(), step=step))

    def doing(self, what: str) -> None:
        """Notes a finer step of the stage, in case it is the last one."""
        if self._journal is not None:
            self._journal.note(what)

    def part(self, done: int, total: int) -> None:
        """Tells how many of how many parts of the stage are done."""
        self._on_progress(Progress(self._stage, done, total))

    def written(self, done: int, total: int) -> None:
        """Tells how many of how many bytes of weights are in the file."""
        self._on_progress(Progress("writing weights", min(done, total), total, "bytes"))

    def note(self, sentence: str) -> None:
        """Tells something that is worth keeping."""
        self.notes.append(sentence)
        self._on_progress(Progress(self._stage, note=sentence))

    def remember(self) -> None:
        """Keeps the times for later builds; one that cannot be written is no harm."""
        if self._file is None:
            return
        for stage, spent in self.seconds.items():
            if spent >= _WORTH:
                sizes = self._known.setdefault(stage, {})
                sizes.pop(str(self.work), None)
                sizes[str(self.work)] = spent
                self._known[stage] = dict(list(sizes.items())[-_KEPT:])
        with suppress(OSError):
            fresh = self._file.parent / "tmp" / f"{os.getpid()}-{os.urandom(4).hex()}"
            fresh.write_text(json.dumps(self._known, indent=1))
            os.replace(fresh, self._file)

    def _left(self) -> float:
        """Seconds of the stage that are expected yet."""
        spent = time.monotonic() - self._began
        return max(0.0, self._expected(self._stage) - spent)

    def _expected(self, stage: str) -> float:
        """Seconds, from the build of the most similar size, up to twice as large or small."""
        sizes = self._known.get(stage, {})
        near = [int(size) for size in sizes if size.isdigit() and self.work / 2 <= int(size)]
        near = [size for size in near if 0 < size <= 2 * self.work]
        if not near:
            return 0.0
        best = min(near, key=lambda size: abs(size - self.work))
        return sizes[str(best)] * self.work / best


def _load(file: Path | None) -> dict[str, dict[str, float]]:
    if file is None:
        return {}
    try:
        content: Any = json.loads(file.read_text())
        return {
            str(stage): {str(size): float(spent) for size, spent in sizes.items()}
            for stage, sizes in cast("dict[str, dict[str, Any]]", content).items()
        }
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # none yet, or damaged: no estimate then
