"""How products in integers are cut into tiles, by a model of what registers and caches hold.

A tile of r rows and b blocks of 16 channels has r b sums. With p registers to a block
(`Isa.per_block`), four inputs of all channels take p r b dot products, and p b + r loads: a vector
of codes for each block, which all rows share, and an activation for each row, which all blocks
share. Dot products are the work itself; so the best tile is the one with the fewest

    loads per dot product = (p b + r) / (p r b)

among those that fit: sums and codes in registers, p b (r + 1) + 3 <= `Isa.registers`, and, where
codes are unpacked first, those of b blocks in half of the second cache, 64 b K / 4 <= `Isa.l2` / 2.
Of equal ones that with most rows is best, as codes are read from there once for each tile.

A tile of few rows unpacks codes as it reads them, and reads every line once. It has as many blocks
as fit with the lines that are unpacked; but one row waits for memory, which gives most to those who
read in order: there, a tile is the whole slab, even if sums leave the registers, where the
instruction set has that cheap (`Isa.spills`) and the lines of a group are many beside its end.

Results do not depend on tiles. Knows no IR, and nothing of how kernels are written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from arkinfer_tvm.layout import LINE, Stream

if TYPE_CHECKING:
    from arkinfer_tvm.isa import Isa

SIZES = (1, 2, 4, 8)
"""Rows of a tile, and blocks. Powers of two: LLVM keeps the sums of a tile as one vector, and takes
others to pieces, number by number."""
MOST_ROWS, MOST_BLOCKS = SIZES[-1], 4
"""Of a tile of many rows; threads have memory for as many unpacked blocks."""
_LINES = 8
"""Of a group: from so many on, a tile of one row is worth sums outside of registers."""


@dataclass(frozen=True)
class Tiling:
    """Tiles of a product for one instruction set.

    Attributes:
        rows, blocks: of a tile of many rows.
        few: blocks of a tile of few rows, for each of `SIZES`.
    """

    rows: int
    blocks: int
    few: tuple[int, ...]


def tiling(isa: Isa, stream: Stream) -> Tiling:
    """What the model says."""
    tiles = [tile for tile in _tiles(isa, stream) if tile[1] == 1 or _cached(isa, stream, tile[1])]
    best = min(tiles, key=lambda tile: (loads(isa, *tile), -tile[0]))
    return Tiling(*best, tuple(few_blocks(isa, stream, rows) for rows in SIZES))


def loads(isa: Isa, rows: int, blocks: int) -> float:
    """Loads per dot product of a tile of many rows."""
    vectors = isa.per_block * blocks
    return (vectors + rows) / (vectors * rows)


def few_rows(isa: Isa) -> int:
    """The most rows of a tile of few rows: as many as fit with one block."""
    return max(rows for rows in SIZES if rows == 1 or _fits(isa, rows, 1))


def few_blocks(isa: Isa, stream: Stream, rows: int) -> int:
    """Blocks of a tile of few rows."""
    if rows == 1 and isa.spills and stream.share // stream.span >= _LINES:
        return stream.blocks

    def needed(blocks: int) -> int:
        sums, lines = blocks * rows, min(stream.planes, 2)
        return isa.per_block * (sums + (lines if rows < 4 else blocks * lines)) + rows + 2

    fitting = [blocks for blocks in _divisors(stream) if needed(blocks) <= isa.registers]
    return max(fitting, default=1)


def candidates(isa: Isa, stream: Stream, most: int, digits: int = 1) -> list[Tiling]:
    """Tilings that are worth measuring for products of at most so many rows, the model's first.

    They differ where it matters for such a product, in the tile of as many rows as it has, if
    these are few, else in the tile of many rows: half as many rows or blocks, twice as many, or
    both.
    """
    first = tiling(isa, stream)
    others: Iterable[Tiling]
    size = next((size for size in SIZES if size >= max(most, digits)), 0)
    if size and size <= max(few_rows(isa), digits):
        place = SIZES.index(size)
        others = (
            replace(first, few=(*first.few[:place], blocks, *first.few[place + 1 :]))
            for blocks in _divisors(stream)
            if blocks in (first.few[place] // 2, first.few[place] * 2)
        )
    else:
        steps = ((1, 2), (2, 1), (4, 1), (1, 4), (4, 2), (2, 4), (4, 4), (1, 1))
        near = [(first.rows * r // 2, first.blocks * b // 2) for r, b in steps]
        tiles = [tile for tile in near if tile in _tiles(isa, stream)]
        others = (replace(first, rows=rows, blocks=blocks) for rows, blocks in tiles)
    return [first, *(other for other in others if other != first)]


def _fits(isa: Isa, rows: int, blocks: int) -> bool:
    """Whether the sums of a tile and a line of each block are in registers, and three more."""
    return isa.per_block * blocks * (rows + 1) + 3 <= isa.registers


def _cached(isa: Isa, stream: Stream, blocks: int) -> bool:
    """Whether the unpacked codes of so many blocks leave half of the second cache to others."""
    return stream.planes == 1 or LINE * blocks * stream.inputs // 4 <= isa.l2 // 2


def _divisors(stream: Stream) -> list[int]:
    """Numbers of blocks that a slab is a multiple of."""
    return [size for size in range(1, stream.blocks + 1) if stream.blocks % size == 0]


def _tiles(isa: Isa, stream: Stream) -> list[tuple[int, int]]:
    """Rows and blocks of tiles of many rows that fit in registers."""
    sizes = [size for size in _divisors(stream) if size in SIZES and size <= MOST_BLOCKS]
    fitting = [(rows, blocks) for blocks in sizes for rows in SIZES if _fits(isa, rows, blocks)]
    return fitting or [(1, 1)]
