"""Looks at heat, power, clocks and free memory while something runs. Knows not what runs."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from arkinfer.machine import procfs
from arkinfer.machine.procfs import System

MOST = 240
"""Moments that are kept; when there are more, every second one goes, and the pauses double."""


class Watch:
    """A context manager that notes, while it is entered, what the machine says of itself.

    Args:
        root: the folder that stands for "/".
        pause: seconds between two looks.
    """

    def __init__(self, root: Path, pause: float = 1.0) -> None:
        self._system, self._pause = System(root), pause
        self._moments: list[dict[str, float | None]] = []
        self._over = threading.Event()
        self._start = time.monotonic()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._start = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._moments.append(self._moment())

    def to_json(self) -> dict[str, Any]:
        """A list for each thing that can be read here, a number for each moment.

        "seconds" since the beginning, "temperature" in °C, "power" in watts, "gpu_frequency" in
        MHz, "memory_available" in bytes, "throttle_events" since the machine was started;
        "unreadable" names those that are not there.
        """
        columns = {name: [m[name] for m in self._moments] for name in self._moments[0]}
        readable = {name: c for name, c in columns.items() if any(v is not None for v in c)}
        return {**readable, "unreadable": sorted(set(columns) - set(readable))}

    def _look(self) -> None:
        self._moments.append(self._moment())
        while not self._over.wait(self._pause):
            self._moments.append(self._moment())
            if len(self._moments) > MOST:
                del self._moments[1::2]
                self._pause *= 2

    def _moment(self) -> dict[str, float | None]:
        system = self._system
        return {
            "seconds": round(time.monotonic() - self._start, 3),
            "temperature": procfs.temperature(system),
            "power": procfs.board_power(system),
            "gpu_frequency": procfs.gpu_frequency(system),
            "memory_available": system.kib("proc/meminfo", "MemAvailable"),
            "throttle_events": procfs.throttle_events(system),
        }
