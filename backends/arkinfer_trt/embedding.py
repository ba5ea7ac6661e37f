"""Looks tokens up in the table of the artifact: the model's first op, which stays outside of the
engine, so that the table takes no memory of the device. Knows no device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from arkinfer.artifact import Artifact
from arkinfer.packing import QuantizedTensor
from arkinfer.runtime.contract import IntArray
from arkinfer_trt.numbers import dense, quantized
from arkinfer_trt.section import TensorRTSection


class Embedding:
    """The table [vocab_size, hidden_size] of a section, in the file's own pages."""

    def __init__(self, artifact: Artifact, section: TensorRTSection) -> None:
        stored = section.embedding
        if stored.shape != (section.vocab_size, section.hidden_size):
            raise ValueError(f"the embedding's table is {stored.shape}")
        self._factor = np.float32(section.embedding_factor)
        self._dense = None if stored.scheme else dense(artifact, stored)
        self._quantized = quantized(artifact, stored) if stored.scheme else None

    def look_up(self, tokens: IntArray, out: npt.NDArray[Any]) -> None:
        """Writes the rows of tokens [T], times the factor, into [T, hidden_size]."""
        if self._quantized is None:
            assert self._dense is not None
            rows = self._dense[tokens].astype(np.float32)
        else:
            rows = _taken(self._quantized, tokens).dequantize()
        out[...] = rows * self._factor


def _taken(table: QuantizedTensor, tokens: IntArray) -> QuantizedTensor:
    parts = {name: p if name == "order" else p[tokens] for name, p in table.parts().items()}
    return QuantizedTensor.from_parts(table.scheme, (len(tokens), table.shape[1]), parts)
