"""How a cache lies in memory: the one place that says so, for kernels and for whoever reads them.

A cache holds blocks of 64 tokens, one after the other; a block holds its kv heads, one after the
other. So the first tokens are the first bytes, whatever the capacity, and attention reads every
byte once, in order. In a block of one head, numbers are packed into words of 32 bits, which are the
lanes of vectors: for keys a lane is a token, for values a lane is one of the head's dims.

    keys    [block][head][32 tokens, twice][dims / unit][token][unit of dims]
    values  [block][head][dims / width][64 / unit][dim of width][unit of tokens]
    scales  [block][head][64 tokens]

Shared by both halves; knows numpy and no kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Order: TypeAlias = Literal["keys", "values", "scales"]

ORDERS: tuple[Order, ...] = ("keys", "values", "scales")

BLOCK = 64
"""Tokens of a block."""

LANES = 32
"""Tokens of keys that lie side by side, and the most dims of values."""

STORED = {"float32": np.float32, "bfloat16": np.uint16, "float16": np.float16, "int8": np.int8}
"""Dtypes of caches -> numpy's for their elements; bfloat16 as its bits."""


@dataclass(frozen=True)
class Cache:
    """A cache of a state: the keys or values of a layer, or the scales of either, one a token.

    Attributes:
        heads: kv heads.
        size: dims of a head; 1 for scales.
        dtype: one of `STORED`; scales are "float32".
        order: how it lies, see above.
    """

    heads: int
    size: int
    dtype: str
    order: Order = "keys"

    @property
    def unit(self) -> int:
        """Numbers of a word."""
        return 4 // np.dtype(STORED[self.dtype]).itemsize

    @property
    def width(self) -> int:
        """Dims of values that lie side by side."""
        return LANES if self.size > LANES // 2 else LANES // 2

    @property
    def padded(self) -> int:
        """Dims that there is room for: as many as words, or vectors, hold."""
        whole = {"keys": self.unit, "values": self.width, "scales": 1}[self.order]
        return -(-self.size // whole) * whole

    @property
    def block(self) -> int:
        """Bytes of a block of one head."""
        return BLOCK * self.padded * np.dtype(STORED[self.dtype]).itemsize

    @property
    def per_token(self) -> int:
        """Bytes that a token adds, on average."""
        return self.heads * self.block // BLOCK

    def bytes(self, tokens: int) -> int:
        """Bytes that hold the first so many tokens: whole blocks."""
        return -(-tokens // BLOCK) * self.heads * self.block

    def read(self, memory: Array, tokens: Array) -> Array:
        """What a cache holds for some tokens: [N, heads, size].

        Args:
            memory: uint8, the cache's.
            tokens: int64 [N], by their places.

        Returns:
            float32 (exact for 16 bits), or the codes of int8.
        """
        view = self._view(memory)
        rows = view[np.unravel_index(tokens, view.shape[:3])]
        rows = rows.reshape(len(tokens), self.heads, self.padded)[..., : self.size]
        if self.dtype == "bfloat16":
            return (rows.astype(np.uint32) << 16).view(np.float32)
        return rows.astype(np.float32 if self.dtype == "float16" else rows.dtype)

    def write(self, memory: Array, tokens: Array, rows: Array) -> None:
        """The inverse of `read`; float32 is rounded to what is stored, ties to even."""
        if self.dtype == "bfloat16":
            bits = np.ascontiguousarray(rows, np.float32).view(np.uint32)
            rows = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        padded = np.zeros((*rows.shape[:2], self.padded), STORED[self.dtype])
        padded[..., : self.size] = rows
        view = self._view(memory)
        at = np.unravel_index(tokens, view.shape[:3])
        view[at] = padded.reshape(len(tokens), *view.shape[3:])

    def move(self, memory: Array, tokens: Array, start: int) -> None:
        """Puts what it holds for `tokens` to the places from `start` on; the two may overlap."""
        view = self._view(memory)
        targets = np.arange(start, start + len(tokens))
        rows = view[np.unravel_index(tokens, view.shape[:3])]
        view[np.unravel_index(targets, view.shape[:3])] = rows

    def kept(self, memory: Array, length: int) -> Array:
        """A copy of the blocks that hold the first so many tokens, zeros behind these."""
        used = memory[: self.bytes(length)].copy()
        rest = np.arange(length, -(-length // BLOCK) * BLOCK)
        self.write(used, rest, np.zeros((len(rest), self.heads, self.size), np.float32))
        return used

    def _view(self, memory: Array) -> Array:
        """The elements with three axes for a token's place first, then heads and dims."""
        flat = memory.view(STORED[self.dtype])
        unit, padded = self.unit, self.padded
        if self.order == "keys":
            whole = flat.reshape(-1, self.heads, BLOCK // LANES, padded // unit, LANES, unit)
            return whole.transpose(0, 2, 4, 1, 3, 5)
        if self.order == "values":
            whole = flat.reshape(
                -1, self.heads, padded // self.width, BLOCK // unit, self.width, unit
            )
            return whole.transpose(0, 3, 5, 1, 2, 4)
        return flat.reshape(-1, self.heads, BLOCK, 1, 1).transpose(0, 2, 3, 1, 4)
