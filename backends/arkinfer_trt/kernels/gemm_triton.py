"""The product of `gemv.py` for many rows of x, in Triton: by tensor cores. Knows no launch.

A program makes a tile of y: TOKENS rows, 4 * QUADS columns; DEPTH inputs at a time. Codes are
unpacked to float16 as they come, exactly, and each is multiplied by its scale and rounded once:
that is the weight that a dense float16 model would have. Products are summed in float32.

The unpacking needs no conversion: a code put into the low bits of the float16 1024 is 1024 + code.
Source of the trick: Y. J. Kim et al., "Who Says Elephants Can't Run" (2022). Codes of both halves
of a word are joined first, so that the compiler makes two numbers with each instruction.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _weight(word: tl.tensor, unit: tl.tensor, BITS: tl.constexpr, INDEX: tl.constexpr) -> tl.tensor:
    """Code INDEX of each word less the midpoint, times its scale."""
    MASK: tl.constexpr = 2**BITS - 1
    MIDDLE: tl.constexpr = 1024.0 + 2 ** (BITS - 1)
    code = ((word >> (INDEX * BITS)) & MASK) | 0x6400
    return (code.to(tl.int16).to(tl.float16, bitcast=True) - MIDDLE) * unit


@triton.jit
def _two(word: tl.tensor, unit: tl.tensor, BITS: tl.constexpr, INDEX: tl.constexpr) -> tl.tensor:
    HALF: tl.constexpr = 16 // BITS
    return tl.join(_weight(word, unit, BITS, INDEX), _weight(word, unit, BITS, INDEX + HALF))


@triton.jit
def _four(word: tl.tensor, unit: tl.tensor, BITS: tl.constexpr, INDEX: tl.constexpr) -> tl.tensor:
    QUARTER: tl.constexpr = 8 // BITS
    return tl.join(_two(word, unit, BITS, INDEX), _two(word, unit, BITS, INDEX + QUARTER))


@triton.jit
def _eight(word: tl.tensor, unit: tl.tensor, BITS: tl.constexpr, INDEX: tl.constexpr) -> tl.tensor:
    EIGHTH: tl.constexpr = 4 // BITS
    return tl.join(_four(word, unit, BITS, INDEX), _four(word, unit, BITS, INDEX + EIGHTH))


@triton.jit
def _weights(word: tl.tensor, unit: tl.tensor, BITS: tl.constexpr) -> tl.tensor:
    """All weights of each word, in order, along new dimensions of two."""
    if BITS == 8:
        found = _four(word, unit, BITS, 0)
    elif BITS == 4:
        found = _eight(word, unit, BITS, 0)
    else:
        found = tl.join(_eight(word, unit, BITS, 0), _eight(word, unit, BITS, 1))
    return found


@triton.jit
def ark_gemm(
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
    DEPTH: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """float16 [tokens, INPUTS] -> float16 [tokens, width]; see `gemv.Gemv` for the arguments."""
    PER_WORD: tl.constexpr = 32 // BITS
    COLUMNS: tl.constexpr = INPUTS // PER_WORD
    GROUPS: tl.constexpr = INPUTS // GROUP
    first_token, first_quad = tl.program_id(0) * TOKENS, tl.program_id(1) * QUADS
    token = (first_token + tl.arange(0, TOKENS))[:, None]
    quad = (first_quad + tl.arange(0, QUADS))[:, None, None]
    row = tl.arange(0, 4)[None, None, :]
    within = tl.arange(0, DEPTH)[None, :]
    lane = tl.arange(0, DEPTH // PER_WORD)[None, :, None]
    has_rows = quad * 4 < width
    has_token = token < tokens
    total = tl.zeros((TOKENS, QUADS * 4), tl.float32)
    for start in tl.range(0, INPUTS, DEPTH, num_stages=STAGES):
        column, k = start // PER_WORD + lane, start + within
        word = tl.load(
            words + (quad * COLUMNS + column) * 4 + row,
            mask=has_rows & (column < COLUMNS),
            other=0,
        )
        unit = tl.load(
            scale + (quad * GROUPS + column // (GROUP // PER_WORD)) * 4 + row,
            mask=has_rows & (column < COLUMNS),
            other=0.0,
        )
        some = tl.load(x + token * INPUTS + k, mask=has_token & (k < INPUTS), other=0.0)
        weights = _weights(word, unit, BITS)
        weights = tl.reshape(weights, (QUADS, DEPTH // PER_WORD, 4, PER_WORD))
        weights = tl.permute(weights, (1, 3, 0, 2))
        weights = tl.reshape(weights, (DEPTH, QUADS * 4))
        total = tl.dot(some, weights, total)
    column = first_quad * 4 + tl.arange(0, QUADS * 4)[None, :]
    tl.store(y + token * width + column, total.to(tl.float16), mask=has_token & (column < width))
