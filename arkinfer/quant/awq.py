"""AWQ: inputs that are large get finer weights, and each group its range by what comes out of it.
Knows no model.

Scaling input k's weights up by s_k, and the input down by it, changes no output; but rounding the
scaled weights costs less where s_k is large. s = m^a, with m the mean magnitude of the inputs, and
the a that loses least of a grid. Where the inputs come from a norm or from another matrix, 1/s is
folded into that. A group's clipping range is then the one that loses least of the outputs.
Both are judged by the second moments of the inputs, over all tokens of the calibration text.
Source: Lin et al. 2023 (arXiv 2306.00978).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from arkinfer.packing import QuantizedTensor, Scheme
from arkinfer.quant.moments import Moments, output_error
from arkinfer.quant.rtn import round_to_nearest
from arkinfer.quant.scales import Metric, best_grid, eleven_bits

STEPS = 20
"""Exponents from 0 up to, not including, 1."""

CLIPS = tuple(1 - step / 40 for step in range(21))
"""Clipping ranges that are tried, from a group's own down to half of it."""

_LEAST = 0.01
"""What an input counts at least, as a share of the mean: it may have been 0 by chance."""

_COUNTS = 0.3
"""What an input counts at least when scales are chosen, as a share of the mean: one that is small
in all that was seen may be large in positions that were left out, and its weights would be rounded
to nothing."""

_WIDE = 512
"""Groups of more inputs are judged by each input's own moment: the products would cost too much."""

_SAMPLE = 1024
"""Rows of a matrix that judge an exponent, evenly chosen: rows lose alike."""

_ROWS = 512
"""Rows that one thread works on at a time."""


def smoothing(
    matrices: Sequence[npt.NDArray[Any]], moments: Moments, schemes: Sequence[Scheme]
) -> npt.NDArray[np.float32]:
    """What to multiply the columns of matrices with common inputs by, and to divide the inputs by.

    Args:
        matrices: [N, K] each, of any float dtype.
        moments: of their inputs.
        schemes: how each will be written.

    Returns:
        Positive, float32 [K]; all 1 where nothing is better.

    Raises:
        UnsupportedError: a scheme's group does not divide K.
        CheckpointError: a matrix has numbers that are not finite.
    """
    magnitude = moments.magnitude
    floor = max(1e-4, _COUNTS * float(magnitude.mean(dtype=np.float64)))
    magnitude = np.maximum(magnitude, np.float32(floor))
    samples = [m[:: -(-len(m) // _SAMPLE)].astype(np.float32) for m in matrices]
    best, least = np.ones_like(magnitude), np.inf
    for step in range(STEPS):
        scales = magnitude ** np.float32(step / STEPS)
        scales /= np.sqrt(scales.max() * scales.min())
        lost = 0.0
        for sample, scheme in zip(samples, schemes, strict=True):
            rounded = round_to_nearest(sample * scales, scheme, clip=False).dequantize()
            lost += output_error(rounded / scales - sample, moments.hessian)
        if lost < least:
            best, least = scales, lost
    return best


def round_for_outputs(
    matrix: npt.NDArray[Any], moments: Moments, scheme: Scheme, threads: int = 1
) -> QuantizedTensor:
    """Round-to-nearest whose clipping ranges and scales are those that lose least of the outputs.

    Args:
        matrix: [N, K], finite.
        moments: of its inputs.
        scheme: offset "none" or "zero", without act_order.
        threads: that work on rows.

    Raises:
        UnsupportedError: the scheme's group does not divide K.
        CheckpointError: the matrix has numbers that are not finite.
    """
    size = scheme.group_size(matrix.shape[1])
    clips = CLIPS if scheme.bits < 8 else CLIPS[:1]
    metric = _metric(moments.hessian, size)

    def rows(start: int) -> QuantizedTensor:
        part = matrix[start : start + _ROWS].astype(np.float32)
        grid = best_grid(part.reshape(len(part), -1, size), scheme, clips, metric)
        return replace(grid, scale=eleven_bits(grid.scale)).encode(scheme)

    with ThreadPoolExecutor(threads) as pool:
        return QuantizedTensor.concatenate(list(pool.map(rows, range(0, len(matrix), _ROWS))))


def _metric(hessian: npt.NDArray[np.float32], size: int) -> Metric:
    """Of errors in groups of `size` inputs, groups taken for independent of each other."""
    own = hessian.diagonal()
    least = np.float32(_LEAST * (float(own.mean(dtype=np.float64)) or 1 / _LEAST))
    if size > _WIDE:
        weights = (own + least).reshape(-1, size)
        return lambda x: x * weights
    blocks = np.stack([hessian[k : k + size, k : k + size] for k in range(0, len(own), size)])
    blocks += least * np.eye(size, dtype=np.float32)
    return lambda x: np.matmul(x.transpose(1, 0, 2), blocks).transpose(1, 0, 2)
