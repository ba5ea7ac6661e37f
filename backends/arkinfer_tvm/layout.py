"""How the kernels' matrices lie in memory, and how they get there from packing's canonical form.

A matrix [N, K] becomes a stream of slabs, each the work of one job. A slab is `blocks` blocks of 16
output channels, the lanes of all vectors, side by side: group after group of inputs, the codes of
all blocks, then their scales, zero points and minima; a factor for each channel ends it. So a
thread reads one sequence of bytes, and a block of 16 channels x 4 inputs is one register of 64
bytes, two of 32 or four of 16: one layout serves every instruction set of an architecture.

Knows numpy and packing; no kernel and no IR.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from arkinfer.packing import QuantizedTensor, Scheme, pack_bits

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

LANES = 16
LINE = 64
BLOCKS = {2: 8, 4: 4, 8: 8}
"""Blocks that a slab has where the matrix is large enough, by the bits of a code; measured. With
four, steps of four tokens read in order, too, and cost 1.1 single tokens in place of 1.3."""
DENSE_BLOCKS = 4
MOST_PADDING = 0.03
"""Channels that may be added to fill the last slab, as a part of all."""
ACTIVATION_GROUP = 128
"""The most inputs that share a scale of the activations."""
_FEW_SCALES = 256
"""Codes, in bytes a channel, beside which a scale of four bytes instead of two costs no time."""
_CHUNK = 4 << 20
"""Weights that are repacked at a time."""


@dataclass(frozen=True)
class Stream:
    """A quantized matrix as kernels read it.

    Byte j of lane i in a line of 64 bytes holds input j of channel i of a block, in its lowest
    bits; above it are inputs 4 + j, 8 + j … as far as there is room. Codes of 3, 5, 6 and 7 bits
    are kept as if they had 4 or 8.

    Attributes:
        rows, columns: N and K.
        bits: of a stored code: 2, 4 or 8.
        group: inputs that share a scale.
        offset: "none", "zero" or "min"; see `arkinfer.packing.Scheme`.
        middle: the code of 0 where the offset is "none".
        signed: whether bytes are signed, 128 less than the codes.
        scale: "f16" or "f32"; scales and minima are each their channel's factor times too small.
        order: whether the inputs are permuted.
        blocks: of a slab.
    """

    rows: int
    columns: int
    bits: int
    group: int
    offset: str
    middle: int
    signed: bool
    scale: str
    order: bool
    blocks: int

    @classmethod
    def of(cls, scheme: Scheme, shape: tuple[int, int], arch: str, exact: bool = False) -> Stream:
        """The stream of a matrix, for an architecture.

        Args:
            exact: scales stay float32, whatever that costs.
        """
        rows, columns = shape
        group = scheme.group_size(columns)
        bits = next(size for size in (2, 4, 8) if size >= scheme.bits)
        few = group * bits // 8 >= _FEW_SCALES
        return cls(
            rows, columns, bits, group, scheme.offset, scheme.midpoint,
            arch == "aarch64" and bits == 8, "f32" if exact or few else "f16", scheme.act_order,
            slab_blocks(rows, BLOCKS[bits]),
        )  # fmt: skip

    @property
    def planes(self) -> int:
        """Codes of a byte."""
        return 8 // self.bits

    @property
    def span(self) -> int:
        """Inputs of a line."""
        return 4 * self.planes

    @property
    def share(self) -> int:
        """Inputs that share a scale of the activations, a whole number of lines."""
        return _share(self.group, self.span)

    @property
    def shares(self) -> int:
        """Of a group, the last one maybe filled up with zeros."""
        return -(-self.group // self.share)

    @property
    def groups(self) -> int:
        return self.columns // self.group

    @property
    def size(self) -> int:
        """Inputs of a group, with those that fill it up."""
        return self.share * self.shares

    @property
    def inputs(self) -> int:
        """K, with what fills up groups."""
        return self.groups * self.size

    @property
    def codes(self) -> int:
        """Bytes of the codes of a group, in all blocks."""
        return self.size // self.span * self.blocks * LINE

    @property
    def zeros(self) -> int:
        """Where in a group's record its zero points begin, if it has any: uint8, by channel."""
        return self.codes + self.channels * (2 if self.scale == "f16" else 4)

    @property
    def minima(self) -> int:
        """Where its minima begin, if it has any: float32, by channel."""
        return self.codes + _lines(self.zeros - self.codes)

    @property
    def record(self) -> int:
        """Bytes of a group."""
        if self.offset == "min":
            return self.minima + self.channels * 4
        size = self.zeros + (self.channels if self.offset == "zero" else 0)
        return _lines(size)

    @property
    def factors(self) -> int:
        """Where in a slab its channels' factors begin: float32."""
        return self.groups * self.record

    @property
    def slab(self) -> int:
        """Bytes of a slab."""
        return self.factors + self.channels * 4

    @property
    def slabs(self) -> int:
        return -(-self.rows // self.channels)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the array of bytes that holds it."""
        return self.slabs, self.slab

    @property
    def channels(self) -> int:
        """Of a slab."""
        return self.blocks * LANES


def slab_blocks(rows: int, most: int) -> int:
    """How many blocks a slab has: as many as fill slabs with few channels added."""
    blocks = -(-rows // LANES)
    sizes = range(most, 0, -1)
    return next(size for size in sizes if -blocks % size <= MOST_PADDING * blocks)


def _share(group: int, span: int) -> int:
    """A group, or a part of it: each part costs about as much as 4 inputs do, as do the zeros."""

    def cost(share: int) -> int:
        parts = -(-group // share)
        return parts * share - group + 4 * parts

    whole = -(-group // span) * span
    if whole <= ACTIVATION_GROUP:
        return whole
    sizes = range(ACTIVATION_GROUP // span * span, 0, -span)
    return min(sizes, key=lambda share: (cost(share), -share))


def _lines(size: int) -> int:
    return -(-size // LINE) * LINE


@dataclass(frozen=True)
class DenseStream:
    """A matrix of floats as kernels read it: input after input, those of all blocks side by side.

    Attributes:
        rows, columns: N and K.
        dtype: the IR's name of what is stored: "f32", "bf16" or "f16".
        blocks: of a slab.
    """

    rows: int
    columns: int
    dtype: str
    blocks: int

    @classmethod
    def of(cls, dtype: str, shape: tuple[int, int]) -> DenseStream:
        return cls(*shape, dtype, slab_blocks(shape[0], DENSE_BLOCKS))

    @property
    def itemsize(self) -> int:
        return 4 if self.dtype == "f32" else 2

    @property
    def channels(self) -> int:
        """Of a slab."""
        return self.blocks * LANES

    @property
    def slab(self) -> int:
        """Bytes of a slab."""
        return self.columns * self.channels * self.itemsize

    @property
    def slabs(self) -> int:
        return -(-self.rows // self.channels)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the array of bytes that holds it."""
        return self.slabs, self.slab


def packed_dense(stream: DenseStream, rows: Callable[[int, int], Array]) -> Iterator[Bytes]:
    """The matrix as a stream: uint8 [slabs, bytes] of some slabs at a time, in order."""
    step = max(1, _CHUNK // (stream.channels * stream.columns))
    kind = np.dtype(f"<u{stream.itemsize}")
    for first in range(0, stream.slabs, step):
        last = min(first + step, stream.slabs)
        part = rows(first * stream.channels, min(last * stream.channels, stream.rows))
        flat = np.ascontiguousarray(part).view(kind)
        out = np.zeros((last - first, stream.columns, stream.channels), kind)
        for number in range(last - first):
            some = flat[number * stream.channels : (number + 1) * stream.channels]
            out[number, :, : len(some)] = some.T
        yield out.view(np.uint8).reshape(last - first, stream.slab)


Rows = Callable[[int, int], QuantizedTensor]
"""Rows [start, stop) of a matrix."""


def packed(stream: Stream, rows: Rows) -> Iterator[Bytes]:
    """The matrix as a stream: uint8 [slabs, bytes] of some slabs at a time, in order."""
    step = max(1, _CHUNK // (stream.channels * stream.columns))
    for first in range(0, stream.slabs, step):
        last = min(first + step, stream.slabs)
        out = np.zeros((last - first, stream.slab), np.uint8)
        start = first * stream.channels
        part = rows(start, min(last * stream.channels, stream.rows))
        for number in range(last - first):
            at = number * stream.channels
            some = part.rows(slice(at, at + stream.channels))
            _fill(stream, some, out[number])
        yield out


def _fill(stream: Stream, rows: QuantizedTensor, slab: Bytes) -> None:
    """One slab, of as many channels or fewer."""
    records = slab[: stream.factors].reshape(stream.groups, stream.record)
    words = np.zeros((stream.channels, stream.groups, stream.size // stream.span), np.uint32)
    words[: rows.shape[0]] = _words(stream, rows)
    blocks = words.reshape(stream.blocks, LANES, *words.shape[1:]).transpose(2, 3, 0, 1)
    records[:, : stream.codes].view(np.uint32).reshape(blocks.shape)[...] = blocks
    scale, factor = _scales(stream, rows)
    _part(records, stream.codes, scale)
    slab[stream.factors :].view(np.float32)[: len(factor)] = factor
    if stream.offset == "zero":
        _part(records, stream.zeros, rows.zeros())
    if rows.min is not None:
        _part(records, stream.minima, rows.min.astype(np.float32) / factor[:, None])


def _part(records: Bytes, start: int, values: Array) -> None:
    """Writes [channels, groups] into the records of the groups."""
    found = np.ascontiguousarray(values.T)
    records[:, start : start + found[0].nbytes] = found.view(np.uint8).reshape(len(found), -1)


def _scales(stream: Stream, rows: QuantizedTensor) -> tuple[Array, Array]:
    """Scales as they are stored, [channels, groups], and the channels' factors.

    A factor is a power of two that brings the largest scale near the largest float16, so that
    those 2^28 times smaller are still precise, and one of at most 11 bits is as it was.
    """
    wide = rows.scale.astype(np.float32)
    if stream.scale == "f32":
        return wide, np.ones(len(wide), np.float32)
    most = np.abs(wide).max(axis=1)
    exponent = np.frexp(np.where(most > 0, most, 1))[1] - 15
    exponent = np.maximum(exponent, -126)  # its inverse is finite
    factor = np.ldexp(np.float32(1), exponent).astype(np.float32)
    return (wide / factor[:, None]).astype(np.float16), factor


def _words(stream: Stream, rows: QuantizedTensor) -> Array:
    """The codes of the lines, uint32 [channels, groups, lines]: a lane's four bytes."""
    codes: Array = rows.codes
    if rows.scheme.bits != stream.bits or stream.size != stream.group:
        loose = rows.unpacked()
        wide = np.zeros((*loose.shape[:2], stream.size), np.uint8)
        wide[..., : stream.group] = loose
        codes = pack_bits(wide, stream.bits)
    words = np.ascontiguousarray(codes).view("<u4")
    if stream.bits == 8:
        return words ^ np.uint32(0x80808080) if stream.signed else words
    words = words.copy()
    for shift, mask in _SWAPS[stream.bits]:
        changed = words >> np.uint32(shift)
        changed ^= words
        changed &= np.uint32(mask)
        words ^= changed
        changed <<= np.uint32(shift)
        words ^= changed
    return words


_SWAPS = {
    4: ((8, 0x0000FF00), (4, 0x00F000F0)),
    2: ((12, 0x0000F0F0), (6, 0x00CC00CC)),
}
"""How the codes of a word, in the order of the inputs, get to their places: fields that lie `shift`
bits apart change places where the mask has ones."""
