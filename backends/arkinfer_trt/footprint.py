"""What an engine takes on its board, predicted. Knows no node and has measured no board."""

from __future__ import annotations

import math

from arkinfer import ir
from arkinfer.backend import Footprint
from arkinfer_trt.support import is_native

MIB = 1 << 20

RUNTIME = 700 * MIB
"""Of the runner, CUDA's context and TensorRT's libraries; assumed."""

ENGINE = 1.03
"""Bytes of an engine for each byte of weights; assumed: what tactics add is small."""

BUILDING = 4.0
"""Bytes of memory, while an engine is made, for each of its weights. Source: issue 30 of NVIDIA's
TensorRT Edge-LLM, three to four times the parameters."""

FLOATS = {"f16": ("fp16", 2), "f32": ("fp32", 4)}
"""What the network computes in -> how caches are kept, and bytes of a number in them."""


def footprint(module: ir.Module, loaded: int, dtype: str) -> Footprint:
    """Of a network in `dtype` with `loaded` bytes of weights."""
    caches = [v.type for v in module.functions["step"].inputs if isinstance(v.type, ir.CacheType)]
    numbers = sum(math.prod(d for d in kind.shape if isinstance(d, int)) for kind in caches)
    engine, (kept, size) = int(loaded * ENGINE), FLOATS[dtype]
    return Footprint(
        run=RUNTIME + engine,
        per_token=numbers * size,
        per_step=sum(_read(node.weights[0], size) for node in _products(module)),
        caches=kept,
        engine=engine,
        prepare=RUNTIME + int(loaded * BUILDING),
    )


def _products(module: ir.Module) -> list[ir.Node]:
    return [node for node in module.nodes() if node.op.endswith(".linear")]


def _read(matrix: ir.Weight, size: int) -> int:
    """Bytes of a matrix in the network: four bits stay four, all else is widened."""
    kind = matrix.type
    rows, columns = (d for d in kind.shape if isinstance(d, int))
    if not isinstance(kind, ir.QuantizedType) or not is_native(kind.scheme):
        return rows * columns * size
    groups = columns // kind.scheme.group_size(columns)
    return rows * columns // 2 + rows * groups * size
