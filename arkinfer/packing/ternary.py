"""Ternary matrices: found, not made. Where every row, or every aligned group of inputs, holds only
-s, 0 and +s, two bits and a scale say the same without any loss. Knows no checkpoint.

Checkpoints of the BitCPM kind store such matrices as ordinary bfloat16 numbers and say nowhere
how many inputs share a scale; training that is split over machines gives a row one scale per part.
So the group is looked for: the whole row of K inputs, else the largest of K/2, K/4, … and of the
powers of two that divide K, down to 32. One scheme serves a whole matrix.
Source: BitCPM-CANN (OpenBMB 2025), sections 3.2 (the quantizer) and 4.2 (scales per part).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from arkinfer.errors import CheckpointError, InternalError
from arkinfer.packing.scheme import Scheme
from arkinfer.packing.tensor import QuantizedTensor, encode

Array: TypeAlias = npt.NDArray[Any]

SMALLEST_GROUP = 32
"""Inputs. In smaller groups a matrix that nobody made ternary could look like one."""

_BLOCK = 1 << 18
"""Numbers that are worked on at a time."""


@dataclass(frozen=True)
class NotTernary:
    """Why a matrix is not ternary, as the end of a sentence about it.

    >>> NotTernary("row 3 holds 288 different magnitudes").reason
    'row 3 holds 288 different magnitudes'
    """

    reason: str


def find_ternary(blocks: Iterable[Array]) -> Scheme | NotTernary:
    """The scheme of a matrix that comes as blocks of rows, each [n, K] of one float dtype.

    Stops at the first block that shows the matrix is not ternary, and keeps none: a caller that
    begins with a single row learns of nearly all dense matrices from that. Zeros suit every
    scale, so that a matrix of zeros is `int2-row`.

    Raises:
        CheckpointError: the matrix holds numbers that are not finite.
    """
    chains: list[list[int]] = []
    finest: list[int] = []
    columns = start = 0
    for block in _small(blocks):
        if not columns:
            columns = block.shape[1]
            chains = _chains(columns)
            finest = [chain[-1] for chain in chains]
        size = _magnitudes(block)
        failing = size[~_even(size, columns)[:, 0]]
        chains = [chain for each in chains if (chain := _advanced(each, failing))]
        if not chains:
            return NotTernary(_reason(size, start, finest))
        start += len(block)
    group = max((chain[0] for chain in chains), default=0)
    return Scheme(2, 0 if group == columns else group)


def ternary_rows(rows: Array, scheme: Scheme) -> QuantizedTensor:
    """Rows [n, K] of a matrix whose scheme `find_ternary` gave, without any loss.

    Codes 1, 2 and 3 stand for -s, 0 and +s; scales are float32. Only a zero's sign is lost.

    Raises:
        CheckpointError: the rows hold numbers that are not finite.
        InternalError: they are not ternary in the scheme's groups.
    """
    width = scheme.group_size(rows.shape[1])
    pieces: list[QuantizedTensor] = []
    for part in _small([rows]):
        size = _magnitudes(part)
        if not _even(size, width).all():
            raise InternalError(f"rows that are not ternary came as {scheme.name}")
        groups = size.reshape(len(part), -1, width)
        scale = groups.max(axis=-1).view(part.dtype).astype(np.float32)
        negative = np.signbit(part).reshape(groups.shape).view(np.uint8)
        codes = (groups != 0).view(np.uint8) * (np.uint8(1) - (negative << 1))  # -1 is 255
        pieces.append(encode(scheme, codes + np.uint8(scheme.midpoint), scale))
    return QuantizedTensor.concatenate(pieces)


def _small(blocks: Iterable[Array]) -> Iterator[Array]:
    """The same rows, in parts that stay in the processor's cache."""
    for block in blocks:
        step = max(1, _BLOCK // block.shape[1])
        for start in range(0, max(1, len(block)), step):
            yield block[start : start + step]


def _chains(columns: int) -> list[list[int]]:
    """Group sizes to try for K inputs, each list from large to small, each size a multiple of the
    next: what one size fails, none before it saves, and what it suits, all behind it suit."""
    power = columns & -columns
    halves = [columns >> i for i in range(power.bit_length())]
    powers = [power >> i for i in range(power.bit_length())]
    chains = [
        [g for g in sizes if g * 2 % 8 == 0 and (g == columns or g >= SMALLEST_GROUP)]
        for sizes in (halves, powers)
    ]
    return [chain for chain in chains[: 1 + (halves != powers)] if chain]


def _advanced(chain: list[int], size: Array) -> list[int]:
    """The chain from the first group that suits all the rows; empty if none does."""
    for index, group in enumerate(chain):
        if _even(size, group).all():
            return chain[index:]
    return []


def _magnitudes(values: Array) -> Array:
    """The bits of |x| as an unsigned integer: they order and compare as |x| does, 0 is zero."""
    unsigned = np.dtype(f"u{values.dtype.itemsize}")
    bits = np.ascontiguousarray(values).view(unsigned)
    size = bits & unsigned.type(np.iinfo(unsigned).max >> 1)
    if size.size and size.max() >= np.array(np.inf, values.dtype).view(unsigned):
        raise CheckpointError(
            "A weight holds numbers that are not finite",
            "They cannot be quantized, and the model would answer with garbage",
            "Check the checkpoint: it may be damaged, or its training diverged",
        )
    return size


def _even(size: Array, group: int) -> npt.NDArray[np.bool_]:
    """Which groups hold at most one nonzero magnitude: bool [n, K/group] of bits [n, K]."""
    groups = size.reshape(len(size), size.shape[1] // group, group)
    one = size.dtype.type(1)
    return groups.max(axis=-1) - one == (groups - one).min(axis=-1)  # 0 - 1 is the largest number


def _reason(size: Array, start: int, finest: list[int]) -> str:
    """What is said of a block of rows, the first of which is row `start` of its matrix."""
    columns = size.shape[1]
    if not finest:
        return f"rows of {columns} weights with 2 bits each fill no whole bytes"
    fails = ~np.any([_even(size, group).all(axis=-1) for group in finest], axis=0)
    if not fails.any():
        return "its rows need groups of different sizes that do not go together"
    row = int(np.argmax(fails))
    count = len(np.unique(size[row][size[row] > 0]))
    return f"row {start + row} holds {count:,} different magnitudes, not one per scale"
