"""A few numbers that tell whether two vectors point the same way. Knows no model and no file.

Both halves use it: the host of the reference's values, the device of a backend's.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

PRINTS = 8
"""Projections of a vector: their error estimates that of the whole within some 25 %."""

Print = tuple[float, ...]


def fingerprint(vector: npt.NDArray[Any]) -> tuple[float, Print]:
    """The length of a vector, and projections of its direction on fixed random signs.

    The direction and not the vector, as a legalization may rescale a whole residual stream.
    Source: Johnson and Lindenstrauss 1984, with the signs of Achlioptas 2003.

    Args:
        vector: any shape; read row by row.

    Returns:
        The Euclidean length, and `PRINTS` numbers of about unit variance; zeros for a zero vector.
    """
    flat = np.asarray(vector, np.float64).reshape(-1)
    length = float(np.sqrt(flat @ flat))
    if not 0 < length < np.inf:
        return length, (0.0,) * PRINTS
    return length, tuple(float(x) for x in _signs(flat.size) @ (flat / length))


def distance(a: Print, b: Print) -> float:
    """An estimate of the distance of the two directions: 0 the same, about 1.4 unrelated."""
    return float(np.sqrt(np.mean((np.asarray(a) - np.asarray(b)) ** 2)))


@lru_cache(maxsize=16)
def _signs(size: int) -> npt.NDArray[np.float64]:
    """float64 [PRINTS, size] of 1 and -1; the same bits for ever: raw Philox is specified."""
    words = np.random.Philox(key=7).random_raw(size)
    bits = words[None, :] >> np.arange(PRINTS, dtype=np.uint64)[:, None] & np.uint64(1)
    return 1.0 - 2.0 * bits.astype(np.float64)
