"""Round-to-nearest with clip search: data-free, each group for itself. Knows no calibration.

The search is that of `arkinfer.quant.scales`, by plain squared errors.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from arkinfer.packing import QuantizedTensor, Scheme
from arkinfer.quant.scales import best_grid, shrinks_for

_BLOCK = 1 << 18  # elements worked on at a time by one thread: 1 MiB of float32


def round_to_nearest(
    matrix: npt.NDArray[Any], scheme: Scheme, *, clip: bool = True
) -> QuantizedTensor:
    """Quantizes a matrix [N, K] of any float dtype; rows are independent of each other.

    Args:
        matrix: finite numbers.
        scheme: offset "none" or "zero", without act_order.
        clip: search the clipping range where it pays: below 8 bits.

    Raises:
        UnsupportedError: the scheme's group does not divide K.
        CheckpointError: the matrix has numbers that are not finite.
    """
    rows, columns = matrix.shape
    size = scheme.group_size(columns)
    step = max(1, _BLOCK // columns)
    shrinks = shrinks_for(scheme, clip)

    def block(start: int) -> QuantizedTensor:
        part = matrix[start : start + step].astype(np.float32)
        groups = part.reshape(-1, columns // size, size)
        return best_grid(groups, scheme, shrinks).encode(scheme)

    starts = range(0, rows, step)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        return QuantizedTensor.concatenate(list(pool.map(block, starts)))
