"""Which calls of a program can run side by side: those between two meetings are a phase.

Knows operands, and no kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

from arkinfer_tvm.program import Operand

_OTHERS = ("weight", "dim", "own")
"""Operands that no call waits for: nobody writes them, or each thread has one of its own."""


class Phases:
    """Puts calls, in the order of the program, into as few phases as their operands allow."""

    def __init__(self) -> None:
        self._read: set[Operand] = set()
        self._written: set[Operand] = set()
        self._now = 0

    def add(self, operands: Sequence[Operand], written: Sequence[Operand]) -> int:
        """The phase of the next call: a new one if it needs, or spoils, what the current one makes.

        Args:
            operands: of the call.
            written: those of them that it writes.
        """
        touched = {operand for operand in operands if operand.kind not in _OTHERS}
        if touched & self._written or self._read.intersection(written):
            self._now += 1
            self._read.clear()
            self._written.clear()
        self._read |= touched
        self._written.update(written)
        return self._now
