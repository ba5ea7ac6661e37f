"""Random matrices for kernels, and their products in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from arkinfer.packing import QuantizedTensor, Scheme, encode

Array = npt.NDArray[Any]


def matrix(scheme: Scheme, width: int, inputs: int, seed: int) -> QuantizedTensor:
    """Codes of every kind, and scales that float16 holds."""
    rng = np.random.default_rng(seed)
    group = scheme.group_size(inputs)
    low = 1 if scheme.bits == 2 else 0  # ternary: -1, 0 and 1
    codes = rng.integers(low, 1 << scheme.bits, (width, inputs // group, group))
    scale = np.exp(rng.normal(-4, 1, codes.shape[:2])).astype(np.float16)
    return encode(scheme, codes.astype(np.uint8), scale)


def inputs(tokens: int, columns: int, seed: int) -> Array:
    """float16 [tokens, columns], as norms leave them: most near 1, some far larger."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(tokens, columns)) * np.exp(rng.normal(size=columns))).astype(
        np.float16
    )


def product(x: Array, weights: QuantizedTensor) -> Array:
    """float64 [tokens, width]."""
    return x.astype(np.float64) @ weights.dequantize().astype(np.float64).T


def error(y: Array, expected: Array) -> float:
    """The largest difference, over the largest number that was expected."""
    assert y.shape == expected.shape
    assert np.isfinite(y).all()
    return float(np.abs(y - expected).max() / np.abs(expected).max())
