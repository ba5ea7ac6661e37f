"""Rows of numbers as blocks of GGUF types. Knows no file and no model.

A matrix that is quantized already keeps its codes where the type can hold them, and only its
scales become fp16; other numbers are rounded as ggml does it, bit by bit.

Source: https://github.com/ggml-org/ggml/blob/master/src/ggml-quants.c (`quantize_row_*_ref`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from arkinfer.errors import UnsupportedError
from arkinfer.frontend.gguf.blocks import TYPES, BlockType
from arkinfer.packing import QuantizedTensor, Scheme

Bytes: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Encoder:
    """One type of blocks.

    Attributes:
        number: of the type in a file's table.
        round: blocks of numbers, float32 [blocks, elements] -> codes of the canonical form and
            scales, float32 [blocks, 1].
        join: codes and scales, two bytes [blocks, 2] -> blocks.
    """

    number: int
    round: Callable[[Floats], tuple[npt.NDArray[Any], Floats]]
    join: Callable[[Bytes, Bytes], Bytes]

    @property
    def type(self) -> BlockType:
        return TYPES[self.number]

    @property
    def scheme(self) -> Scheme:
        assert self.type.scheme is not None
        return self.type.scheme

    def takes(self, scheme: Scheme) -> bool:
        """Whether the codes of such a matrix can be kept, if the blocks divide its rows."""
        symmetric = scheme.offset == "none" and not scheme.act_order
        whole = scheme.group % self.type.elements == 0
        return symmetric and whole and scheme.bits <= self.scheme.bits

    def keep(self, rows: QuantizedTensor) -> tuple[Bytes, int]:
        """Rows of a matrix that `takes` said yes to, and how many scales were rounded to fp16."""
        codes = rows.unpacked().reshape(-1, self.type.elements)
        if self.scheme.bits == 2 and not codes.all():
            raise UnsupportedError(
                "A matrix in two bits has four different numbers",
                "TQ2_0 holds -s, 0 and s only",
                "Export with --type q4_0 or q8_0",
            )
        moved = codes + np.uint8(self.scheme.midpoint - rows.scheme.midpoint)
        scale = np.repeat(rows.scale.astype(np.float32), rows.group // self.type.elements, axis=1)
        half = _half(scale.reshape(-1, 1))
        exact = half.astype(np.float32) == scale.reshape(-1, 1)
        rounded = exact.size - int(np.count_nonzero(exact))
        blocks = self.join(moved, half.view(np.uint8))
        return blocks.reshape(rows.shape[0], -1), rounded * self.type.elements // rows.group

    def nearest(self, rows: Floats) -> Bytes:
        """Numbers, float32 [N, K], as rows of blocks."""
        codes, scale = self.round(rows.reshape(-1, self.type.elements))
        blocks = self.join(codes.astype(np.uint8), _half(scale).view(np.uint8))
        return blocks.reshape(rows.shape[0], -1)


def _half(scale: Floats) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half = scale.astype("<f2")
    if not np.isfinite(half).all():
        raise UnsupportedError(
            "A scale is beyond what GGUF's fp16 can hold",
            f"It is {float(np.abs(scale).max()):.3g}, and 65504 is the most",
            "Check the checkpoint: trained weights are far smaller",
        )
    return half


def _inverse(scale: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.where(scale == 0, np.float32(0), np.float32(1) / scale).astype(np.float32)


def _round_q8_0(x: Floats) -> tuple[npt.NDArray[Any], Floats]:
    scale = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    y = x * _inverse(scale)
    size = np.abs(y)
    whole = np.floor(size)
    away = np.sign(y) * (whole + np.floor(2 * (size - whole)))  # halves away from zero, as roundf
    return away + 128, scale


def _round_q4_0(x: Floats) -> tuple[npt.NDArray[Any], Floats]:
    """The number that is furthest from zero becomes the code 0, which has no counterpart."""
    most: Any = np.take_along_axis(x, np.abs(x).argmax(axis=1)[:, None], axis=1)
    scale: Any = most / np.float32(-8)
    return np.trunc(x * _inverse(scale) + np.float32(8.5)).clip(0, 15), scale


def _round_tq2_0(x: Floats) -> tuple[npt.NDArray[Any], Floats]:
    scale = np.abs(x).max(axis=1, keepdims=True)
    if ((x != 0) & (np.abs(x) != scale)).any():
        raise UnsupportedError(
            "A matrix is not ternary in blocks of 256 inputs",
            "TQ2_0 holds -s, 0 and s only",
            "Export with --type q4_0 or q8_0",
        )
    return np.sign(x) + 2, scale


def _join_q8_0(codes: Bytes, scale: Bytes) -> Bytes:
    return np.concatenate((scale, codes ^ np.uint8(128)), axis=1)


def _join_q4_0(codes: Bytes, scale: Bytes) -> Bytes:
    return np.concatenate((scale, codes[:, :16] | codes[:, 16:] << np.uint8(4)), axis=1)


def _join_tq2_0(codes: Bytes, scale: Bytes) -> Bytes:
    trits = (codes - np.uint8(1)).reshape(-1, 2, 4, 32)
    shifted = trits << np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    packed = np.bitwise_or.reduce(shifted, axis=2).reshape(-1, 64)
    return np.concatenate((packed, scale), axis=1)


Q4_0 = Encoder(2, _round_q4_0, _join_q4_0)
Q8_0 = Encoder(8, _round_q8_0, _join_q8_0)
TQ2_0 = Encoder(35, _round_tq2_0, _join_tq2_0)
