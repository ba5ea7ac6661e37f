"""Places values in one block of memory, so that values which never live together share bytes.

Knows sizes and lifetimes only.
"""

from __future__ import annotations

from dataclasses import dataclass

ALIGNMENT = 64


@dataclass(frozen=True)
class Lifetime:
    """`size` bytes, needed from step `first` to step `last`, both included."""

    size: int
    first: int
    last: int


def place(values: list[Lifetime]) -> tuple[list[int], int]:
    """Byte offsets of the values, aligned, and the size of the block.

    First fit in order of birth; deterministic.

    >>> place([Lifetime(100, 0, 1), Lifetime(10, 1, 2), Lifetime(64, 2, 3)])
    ([0, 128, 0], 192)
    """
    offsets = [0] * len(values)
    placed: list[int] = []
    total = 0
    for index in sorted(range(len(values)), key=lambda i: (values[i].first, i)):
        value = values[index]
        taken = sorted(
            (offsets[i], offsets[i] + _rounded(values[i].size))
            for i in placed
            if values[i].last >= value.first and values[i].first <= value.last
        )
        start = 0
        for low, high in taken:
            if start + _rounded(value.size) <= low:
                break
            start = max(start, high)
        offsets[index] = start
        placed.append(index)
        total = max(total, start + _rounded(value.size))
    return offsets, total


def _rounded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
