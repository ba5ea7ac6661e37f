"""Random blocks of each GGUF type, whose scales are finite."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from arkinfer.frontend.gguf.blocks import TYPES, BlockType

PACKED = {kind: block for kind, block in TYPES.items() if block.scheme is not None}
"""The types of which several numbers share a scale."""

_SCALES = {"Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
           "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "TQ1_0": (52,),
           "TQ2_0": (64,)}  # fmt: skip
"""Where the fp16 numbers of a block begin."""


def random_rows(block: BlockType, rows: int, columns: int, seed: int) -> npt.NDArray[np.uint8]:
    """uint8 [rows, bytes of a row]; the numbers deviate by about 1 / sqrt(columns)."""
    draw = np.random.default_rng(seed)
    data = draw.integers(0, 256, (rows * columns // block.elements, block.nbytes), dtype=np.uint8)
    if block.name == "TQ2_0":
        trits = draw.integers(0, 3, (len(data), 64, 4), dtype=np.uint8)
        data[:, :64] = (trits << np.arange(0, 8, 2, dtype=np.uint8)).sum(-1)
    for at in _SCALES[block.name]:
        data[:, at : at + 2] = draw.normal(size=(len(data), 1)).astype("<f2").view(np.uint8)
    spread = float(block.decode(data).dequantize().std())
    for at in _SCALES[block.name]:
        scale = data[:, at : at + 2].copy().view("<f2") / np.float32(spread * np.sqrt(columns))
        data[:, at : at + 2] = scale.astype("<f2").view(np.uint8)
    return data.reshape(rows, -1)
