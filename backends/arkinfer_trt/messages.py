"""What TensorRT tells while it works: its errors, and how far it is. Knows no network.

The classes that TensorRT calls are made when it is there, for they derive from its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, MutableSequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorrt as trt

PARTS = 1000
"""Into which the whole work is cut."""


def logger(errors: MutableSequence[str]) -> trt.ILogger:
    """What every object of TensorRT begins with: errors go to a list, and nothing is printed."""
    import tensorrt as trt

    grave = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            if severity in grave:
                errors.append(msg)

    return Logger()


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


@dataclass
class Phases:
    """Follows phases, which have steps and phases within them; several threads may tell of them.

    Attributes:
        report: called with how much is done, of `PARTS`, when that has grown; what it raises stops
            the work.
        stopped: what stopped it, to be raised when TensorRT has come back by itself; None: nothing.
    """

    report: Callable[[int, int], object]
    stopped: BaseException | None = None
    _running: dict[str, _Phase] = field(default_factory=dict[str, _Phase])
    _told: int = -1
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @contextmanager
    def guarded(self) -> Generator[None, None, None]:
        """Keeps what is raised within, Ctrl-C at any line for one: TensorRT must not see it."""
        try:
            yield
        except BaseException as error:
            self.stopped = error

    def start(self, name: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._running[name] = _Phase(parent, max(1, steps))
            self._tell()

    def step(self, name: str, number: int) -> bool:
        """Whether to go on."""
        with self._lock:
            phase = self._running.get(name)
            if phase is not None:
                phase.done = min(number + 1, phase.steps)
            self._tell()
            return self.stopped is None

    def finish(self, name: str) -> None:
        with self._lock:
            self._running.pop(name, None)
            self._tell()

    def _tell(self) -> None:
        roots = [name for name, phase in self._running.items() if phase.parent is None]
        done = int(PARTS * max((self._part(name) for name in roots), default=0.0))
        if done <= self._told or self.stopped is not None:
            return
        self._told = done
        with self.guarded():
            self.report(done, PARTS)

    def _part(self, name: str) -> float:
        """How much of a phase is done: its steps, and of one step the phase within it."""
        phase = self._running[name]
        within = [n for n, other in self._running.items() if other.parent == name]
        share = max((self._part(n) for n in within), default=0.0)
        return min(1.0, (phase.done + min(share, 0.999)) / phase.steps)


def monitor(phases: Phases) -> trt.IProgressMonitor:
    """What a builder tells its progress to."""
    import tensorrt as trt

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            super().__init__()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with phases.guarded():
                phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with phases.guarded():
                phases.step(phase_name, step)
            return phases.stopped is None

        def phase_finish(self, phase_name: str) -> None:
            with phases.guarded():
                phases.finish(phase_name)

    return Monitor()
