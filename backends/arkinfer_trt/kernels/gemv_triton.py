"""The GEMV kernel in Triton, for every product and tile of `gemv.py`. Knows no launch.

A program multiplies QUADS sets of four rows by TOKENS rows of x; its threads take words along the
inputs, LANES at a time, and add up at the end. The loop touches no shared memory.

Codes become numbers without a conversion, of which a multiprocessor does 16 in a clock: a code that
stands at bits b … of a word is masked out, put into the low bits of the float32 2^23, and 2^23 +
midpoint * 2^b is subtracted, which is exact; x is multiplied by 2^-b, which is exact, too.
Source of the trick: Y. J. Kim et al., "Who Says Elephants Can't Run" (2022), there with float16.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _add_products(
    part: tl.tensor,
    four: tl.tensor,
    word: tl.tensor,
    magic: tl.tensor,
    BITS: tl.constexpr,
    INDEX: tl.constexpr,
) -> tl.tensor:
    """part + x * (code - midpoint) of code INDEX of each word; `four` holds its x and three."""
    SHIFT: tl.constexpr = INDEX * BITS % 16  # the upper half is shifted down: a float32 has 23 bits
    MASK: tl.constexpr = (2**BITS - 1) << SHIFT
    OFFSET: tl.constexpr = 8388608.0 + 2 ** (BITS - 1 + SHIFT)
    x = (four >> (INDEX % 4 * 16)).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    half = word >> (INDEX * BITS - SHIFT)
    code = ((half & MASK) | magic).to(tl.float32, bitcast=True) - OFFSET
    return tl.fma(x * (0.5**SHIFT), code, part)


@triton.jit
def ark_gemv(
    x: tl.tensor,
    words: tl.tensor,
    scale: tl.tensor,
    tokens: tl.tensor,
    width: tl.tensor,
    y: tl.tensor,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    INPUTS: tl.constexpr,
    TOKENS: tl.constexpr,
    QUADS: tl.constexpr,
    LANES: tl.constexpr,
) -> None:
    """float16 [tokens, INPUTS] -> float16 [tokens, width]; see `gemv.Gemv` for the arguments."""
    PER_WORD: tl.constexpr = 32 // BITS
    COLUMNS: tl.constexpr = INPUTS // PER_WORD
    GROUPS: tl.constexpr = INPUTS // GROUP
    first_token, first_quad = tl.program_id(1) * TOKENS, tl.program_id(0) * QUADS
    token = (first_token + tl.arange(0, TOKENS))[:, None, None, None]
    quad = (first_quad + tl.arange(0, QUADS))[None, :, None, None]
    lane = tl.arange(0, LANES)[None, None, :, None]
    row = tl.arange(0, 4)[None, None, None, :]
    magic = 0x4B000000 + (width >> 31)  # 2^23 as float32, in a register: as a constant beside the
    # mask, it would take an instruction of its own for every code
    fours = x.to(tl.pointer_type(tl.int64))  # four numbers of x in one load
    has_rows = quad * 4 < width
    has_token = token < tokens
    total = tl.zeros((TOKENS, QUADS, LANES, 4), tl.float32)
    for start in tl.range(0, COLUMNS, LANES):
        column = start + lane
        inside = column < COLUMNS
        word = tl.load(
            words + (quad * COLUMNS + column) * 4 + row,
            mask=has_rows & inside,
            other=0,
            eviction_policy="evict_first",
        )
        unit = tl.load(
            scale + (quad * GROUPS + column // (GROUP // PER_WORD)) * 4 + row,
            mask=has_rows & inside,
            other=0.0,
        )
        part = tl.zeros((TOKENS, QUADS, LANES, 4), tl.float32)
        for i in tl.static_range(PER_WORD // 4):
            four = tl.load(
                fours + (token * COLUMNS + column) * (PER_WORD // 4) + i,
                mask=has_token & inside,
                other=0,
            )
            for j in tl.static_range(4):
                part = _add_products(part, four, word, magic, BITS, i * 4 + j)
        total += part * unit.to(tl.float32)
    sums = tl.sum(total, axis=2).to(tl.float16)
    token = (first_token + tl.arange(0, TOKENS))[:, None, None]
    quad = (first_quad + tl.arange(0, QUADS))[None, :, None]
    column = quad * 4 + tl.arange(0, 4)[None, None, :]
    tl.store(y + token * width + column, sums, mask=(token < tokens) & (column < width))
