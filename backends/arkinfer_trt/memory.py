"""What an engine takes of a board's memory: the numbers by which `plan` predicts and the executor
decides. Knows no device. None of them was measured on a board.
"""

from __future__ import annotations

MIB = 1 << 20

RUNTIME = 700 * MIB
"""Of the runner, CUDA's context and TensorRT's libraries; assumed."""

BUILDING = 4.0
"""Bytes, while an engine is made, for each byte of its constants. Source: issue 30 of NVIDIA's
TensorRT Edge-LLM, three to four times the parameters."""

ENGINE = 1.03
"""Bytes of an engine for each byte of its constants; assumed: what tactics add is small."""

WORKSPACE = (64 * MIB, 1024 * MIB)
"""Least and most that a kernel may have to work in; between them, an eighth of what is free."""


def building(constants: int) -> int:
    """Bytes that making an engine with so many bytes of constants takes."""
    return RUNTIME + int(BUILDING * constants)


def engine(constants: int) -> int:
    """Bytes of the engine, on disk and in memory."""
    return int(ENGINE * constants)


def workspace(free: int) -> int:
    """Bytes that a kernel may have to work in, of those that are free."""
    least, most = WORKSPACE
    return max(least, min(most, free // 8))
