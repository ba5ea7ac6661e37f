"""Tensors of a made-up checkpoint in memory, given to the readers as those of a file are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from arkinfer.frontend.quantized import Matrix, find

Array = npt.NDArray[Any]

NAME = "model.layers.0.mlp.down_proj.weight"
MODULE = NAME.removesuffix(".weight")

SCALES = (np.float16, ml_dtypes.bfloat16, np.float32)


class Stored:
    """A checkpoint with these tensors, a model that expects matrices of these shapes."""

    def __init__(
        self,
        tensors: Mapping[str, Array],
        expected: Mapping[str, tuple[int, int]],
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.tensors = dict(tensors)
        self.expected = dict(expected)
        self.facts = dict(facts or {})

    def read(self, name: str, start: int, stop: int) -> Array:
        tensor = self.tensors[name]
        assert 0 <= start <= stop <= len(tensor), f"{name} [{start}:{stop}] of {tensor.shape}"
        return tensor[start:stop].copy()

    def find(self) -> dict[str, Matrix]:
        shapes = {name: (t.dtype, t.shape) for name, t in self.tensors.items()}
        return find(shapes, self.expected, self.facts, self.read)

    def only(self) -> Matrix:
        (matrix,) = self.find().values()
        return matrix

    def dense(self, matrix: Matrix, step: int | None = None) -> npt.NDArray[np.float32]:
        """The whole matrix in float32, read `step` rows at a time."""
        count = matrix.shape[0]
        blocks = []
        for start in range(0, count, step or count):
            rows = matrix.rows(self.read, start, min(start + (step or count), count))
            assert rows.scheme == matrix.scheme
            blocks.append(rows.dequantize())
        return np.concatenate(blocks)


def one(tensors: Mapping[str, Array], shape: tuple[int, int], **facts: Any) -> Stored:
    """A checkpoint whose only matrix has these parts."""
    named = {f"{MODULE}.{part}": tensor for part, tensor in tensors.items()}
    return Stored(named, {NAME: shape}, facts)


def words(rng: np.random.Generator, *shape: int) -> Array:
    """Any 32 bits."""
    return rng.integers(-(2**31), 2**31, shape, dtype=np.int64).astype(np.int32)


def scales(rng: np.random.Generator, dtype: Any, *shape: int) -> Array:
    """Numbers of the size of scales; a few are 0 or negative, as in real files."""
    values = rng.normal(0, 0.02, shape)
    values[rng.random(shape) < 0.05] = 0
    return values.astype(dtype)


def bits_of(row: Array, place: int, bits: int) -> int:
    """Code `place` of 32-bit words that hold codes one after the other, low bits first."""
    number = 0
    for index, word in enumerate(row.tolist()):
        number |= (word & 0xFFFFFFFF) << (32 * index)
    return (number >> (place * bits)) & ((1 << bits) - 1)
