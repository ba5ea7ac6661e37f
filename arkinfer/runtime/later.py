"""A value that a thread of its own computes meanwhile. Knows nothing of what it is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Later(Generic[T]):
    """Starts computing at once; whoever asks first waits for the end.

    Args:
        compute: what gives the value; what it raises is raised by `get`.
    """

    def __init__(self, compute: Callable[[], T]) -> None:
        self._values: list[T] = []
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(compute,), daemon=True)
        self._thread.start()

    def _run(self, compute: Callable[[], T]) -> None:
        try:
            self._values.append(compute())
        except Exception as error:  # it belongs to whoever asks for the value
            self._error = error

    def get(self) -> T:
        """The value."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._values[0]
