"""How much memory a run takes, predicted from a few numbers. Knows no backend and no machine."""

from __future__ import annotations

BASE = 110 << 20
"""Resident bytes of the runner with an empty model: Python, numpy, the runtime's library."""

OVERHEAD = 1.05
"""Of what the runtime keeps beside the weights, as a factor."""


def run_bytes(weights: int, caches: int) -> int:
    """Resident bytes of a run.

    Args:
        weights: bytes that the section loads.
        caches: bytes of the key-value caches at the context's full length.
    """
    return BASE + int(weights * OVERHEAD) + caches
