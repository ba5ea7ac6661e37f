"""Puts quantized matrices into the layout that the GEMV kernel reads. Knows no file.

A decode step reads every weight once, so what counts is how the matrix comes over the memory bus.
Four rows lie side by side: the 32-bit word that holds code k of row n is
`words[n // 4, k // per_word, n % 4]`, and its scale `scale[n // 4, k // group, n % 4]`.

* A thread loads 128 bits at once: one word of each of four rows. Neighbours load neighbours, so a
  warp's load is 512 bytes in one piece.
* These four words meet the same 4, 8 or 16 numbers of x, which the thread loads once and in one
  piece; words of one row would need four times as many.
* Its four scales are one load of 64 bits, and any group that fills words works alike.
* Within a word nothing moves: it is four bytes of packing's canonical form, low code first. So
  repacking transposes words and touches no code; the codes are masked out where they stand.

In a clock of one of its multiprocessors Orin (sm_87) gets 10 bytes from memory: 20 codes of 4 bits.
Each takes three instructions, and nearly five with its share of the rest: 94 of 128 lanes. Two sets
of rows for each thread (a choice of `gemv.TILES`) share more. sm_89 and sm_90 have more to spare.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from arkinfer.errors import UnsupportedError
from arkinfer.packing import QuantizedTensor
from arkinfer_trt.kernels.gemv import ROWS, Gemv


def repacked(matrix: QuantizedTensor, dtype: str = "float16") -> dict[str, npt.NDArray[Any]]:
    """The arrays that `Gemv.parts` names, of a matrix or of some rows of it.

    Args:
        matrix: in packing's form.
        dtype: of the scales, that of the network; kernels read "float16".

    Rows that come in parts must come in multiples of four, but for the last ones. Padding rows
    have scales of 0.

    Raises:
        UnsupportedError: no kernel multiplies by it, or float16 cannot hold its scales.
    """
    gemv = Gemv.of(matrix.scheme, matrix.shape)
    with np.errstate(over="ignore"):  # said better below
        scale = matrix.scale.astype(dtype)
    if not np.isfinite(scale).all():
        raise UnsupportedError(
            f"A matrix of {matrix.scheme.name} cannot be repacked",
            f"It has scales that {dtype} cannot hold",
        )
    words = np.ascontiguousarray(matrix.codes).reshape(gemv.width, -1).view("<i4")
    return {"words": _quads(words), "scale": _quads(scale)}


def _quads(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[N, columns] -> [ceil(N / 4), columns, 4], padded with zeros."""
    padded = np.pad(rows, ((0, -len(rows) % ROWS), (0, 0)))
    sets = padded.reshape(-1, ROWS, rows.shape[1])
    return np.ascontiguousarray(sets.transpose(0, 2, 1))
