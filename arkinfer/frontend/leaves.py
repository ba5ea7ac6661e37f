"""The symbols that a traced module mentions, and their rows. Knows no IR and no file format.

Most stand in the checkpoint; `model.rotary.inv_freq` follows from the config and the context.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from arkinfer.models.config import ModelConfig
from arkinfer.packing import QuantizedTensor, Scheme

INV_FREQ = "model.rotary.inv_freq"
"""f32 [head_dim / 2]: the angle per position of every rotated pair."""


class Tensors(Protocol):
    """What is needed of a checkpoint; `arkinfer.frontend.checkpoint.Checkpoint` is one."""

    def names(self) -> list[str]: ...
    def dtype(self, name: str) -> np.dtype[Any]: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def read(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]: ...
    def schemes(self) -> Mapping[str, Scheme]: ...
    def quantized(self, name: str, start: int, stop: int) -> QuantizedTensor: ...


class LeafSource:
    """Every leaf weight of the IR by name, row by row.

    Args:
        checkpoint: where the trained tensors are.
        config: the model.
        context: what the module was traced for; it chooses the LongRoPE table.
    """

    def __init__(self, checkpoint: Tensors, config: ModelConfig, context: int) -> None:
        self._checkpoint = checkpoint
        self._derived = {INV_FREQ: config.rope.inv_freq(config.head_dim, context)}

    def names(self) -> list[str]:
        return [*self._checkpoint.names(), *self._derived]

    def dtype(self, name: str) -> np.dtype[Any]:
        return self._derived[name].dtype if name in self._derived else self._checkpoint.dtype(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._derived[name].shape if name in self._derived else self._checkpoint.shape(name)

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Rows [start:stop) in the stored dtype."""
        if name in self._derived:
            return self._derived[name][start:stop].copy()
        return self._checkpoint.read(name, start, stop)

    def schemes(self) -> Mapping[str, Scheme]:
        """The matrices that the checkpoint has quantized, and how."""
        return self._checkpoint.schemes()

    def quantized(self, name: str, start: int, stop: int) -> QuantizedTensor:
        """Rows [start, stop) of one of them."""
        return self._checkpoint.quantized(name, start, stop)
