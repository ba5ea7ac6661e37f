"""Reads Marlin checkpoints: CPM.cu's files and AutoGPTQ's; 4 bits, symmetric, for CUDA kernels.

Of a matrix [N, K]: the codes [K, N] are cut into tiles of 16 x 16, four of which side by side (a
run of 1,024 numbers) are put into the order in which a warp's threads load them; 8 consecutive
ones are a word of int32 [K / 16, 2 N]. Scales [K / g, N] are permuted 64 at a time, or 32 where
a column has one scale. CPM.cu calls them `qweight` and `scales`, and stacks q, k and v as
`qkv_proj`, gate and up as `gate_up_proj`; AutoGPTQ calls them `B` and `s`. Source:
`scripts/model_convert/gptq2marlin.py` of CPM.cu. Knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from arkinfer.frontend.quantized.matrix import (
    BLOCK,
    Facts,
    LastConverted,
    Read,
    Shapes,
    as_bytes,
    finite,
    make_scheme,
    module_of,
    need_scales,
    need_tensor,
)
from arkinfer.packing import QuantizedTensor, Scheme, pack_bits, unpack_bits

BITS = 4
TILE = 16

STACKS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""What CPM.cu stacks along N."""

NAMES = (("qweight", "scales"), ("B", "s"))
"""Codes and scales, of CPM.cu and of AutoGPTQ."""


def _codes_order() -> npt.NDArray[np.intp]:
    """Place in a run of four tiles -> which of their 1,024 numbers lies there."""
    thread, tile, place = np.indices((32, 4, 8))
    entry = np.array((0, 2, 4, 6, 1, 3, 5, 7))[place]
    row = 2 * (thread % 4) + np.array((0, 1, 8, 9))[entry % 4]
    column = thread // 4 + 8 * (entry // 4)
    return np.asarray(TILE * TILE * tile + TILE * row + column).ravel()


CODES = np.argsort(_codes_order())
"""Number of a run -> its place."""

SCALES = np.arange(64).reshape(8, 8).T.ravel()
"""Number of a run of 64 scales -> its place: the order is its own inverse."""

ROW_SCALES = np.argsort(
    [2 * i + j for i in range(4) for j in (0, 1, 8, 9, 16, 17, 24, 25)]
)  # fmt: skip
"""The same of a run of 32, where a column has one scale."""


@dataclass(frozen=True)
class _Stored:
    """A stored matrix [N, K], which may be a stack of several of the model's."""

    names: tuple[str, str]
    shape: tuple[int, int]
    scheme: Scheme

    def convert(self, read: Read) -> QuantizedTensor:
        count, columns = self.shape
        size = self.scheme.group_size(columns)
        codes = np.empty((count, columns // 2), np.uint8)
        words = read(self.names[0], 0, columns // TILE)
        step = max(1, BLOCK // (count * TILE))  # rows of tiles
        for start in range(0, columns // TILE, step):
            runs = unpack_bits(as_bytes(words[start : start + step]), BITS, count * TILE)
            tiles = runs.reshape(-1, len(CODES))[:, CODES].reshape(-1, count // TILE, TILE, TILE)
            rows = tiles.transpose(1, 3, 0, 2).reshape(count, -1)  # [N, 16 a row of tiles]
            first = start * TILE // 2
            codes[:, first : first + rows.shape[1] // 2] = pack_bits(rows, BITS)
        groups = columns // size
        stored = finite(self.names[1], read(self.names[1], 0, groups))
        order = ROW_SCALES if groups == 1 else SCALES
        scale = stored.reshape(-1, len(order))[:, order].reshape(groups, count).T
        packed = codes.reshape(count, groups, size * BITS // 8)
        return QuantizedTensor(self.scheme, self.shape, packed, np.ascontiguousarray(scale))


@dataclass(frozen=True, eq=False)
class MarlinMatrix:
    """One of the model's matrices: rows of a stored one, from `first` on."""

    shape: tuple[int, int]
    stored: _Stored
    first: int
    last: LastConverted = field(repr=False)

    @property
    def scheme(self) -> Scheme:
        return self.stored.scheme

    @property
    def tensors(self) -> tuple[str, ...]:
        return self.stored.names

    def rows(self, read: Read, start: int, stop: int) -> QuantizedTensor:
        name = self.stored.names[0]
        first, last = self.first + start, self.first + stop
        return self.last.rows(name, lambda: self.stored.convert(read), first, last)


def find(
    shapes: Shapes, expected: Mapping[str, tuple[int, int]], facts: Facts, read: Read
) -> dict[str, MarlinMatrix]:
    """The matrices that are there in this form, by their `….weight` name.

    Raises:
        CheckpointError: tensors that contradict each other or the config.
        UnsupportedError: groups of different sizes.
    """
    last = LastConverted()
    found: dict[str, MarlinMatrix] = {}
    for name, shape in expected.items():
        for home, rows, first in _homes(name, expected):
            for codes, scales in NAMES:
                names = f"{home}.{codes}", f"{home}.{scales}"
                size = rows, shape[1]
                if name not in shapes and _is_here(shapes, home, names[0], size):
                    scheme = _check(shapes, names, size, facts)
                    stored = _Stored(names, size, scheme)
                    found[name] = MarlinMatrix(shape, stored, first, last)
    return found


def _homes(name: str, expected: Mapping[str, tuple[int, int]]) -> list[tuple[str, int, int]]:
    """Where a matrix may be: module, its rows, the first of this matrix."""
    module = module_of(name)
    homes = [(module, expected[name][0], 0)]
    parent, _, leaf = module.rpartition(".")
    for stack, parts in STACKS.items():
        names = [f"{parent}.{part}.weight" for part in parts]
        if leaf in parts and all(part in expected for part in names):
            sizes = [expected[part][0] for part in names]
            homes.append((f"{parent}.{stack}", sum(sizes), sum(sizes[: parts.index(leaf)])))
    return homes


def _is_here(shapes: Shapes, home: str, codes: str, shape: tuple[int, int]) -> bool:
    rows, columns = shape
    whole = rows % 64 == 0 and columns % TILE == 0
    words = columns // TILE, rows * TILE // 8
    return (
        whole and codes in shapes and shapes[codes][1] == words and f"{home}.qzeros" not in shapes
    )


def _check(shapes: Shapes, names: tuple[str, str], shape: tuple[int, int], facts: Facts) -> Scheme:
    rows, columns = shape
    need_tensor(shapes, names[0], (np.int32,), (columns // TILE, rows * TILE // 8))
    groups = need_scales(shapes, names[1], None, rows)
    return make_scheme(names[1], BITS, shape, groups, said=facts)
