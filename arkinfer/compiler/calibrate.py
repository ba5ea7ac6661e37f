"""Scales of an int8 key-value cache, from a pass over a small text. Knows no backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from arkinfer import ir
from arkinfer.errors import UsageError

MARGIN = 1.25
"""Room above the largest value seen: other texts reach a little further, and a value that does
not fit is cut off."""

TEXT = """\
A compiler reads a program in one language and writes it in another. Between the two it keeps a
representation of its own, and most of its work is done there: names are resolved, types are
checked, and what is computed twice is computed once. In 1957 the first FORTRAN compiler took 18
person-years to write; today a student does it in a term. def fib(n): return n if n < 2 else
fib(n - 1) + fib(n - 2). Die Sonne scheint, und die Vögel singen. El perro corre por el parque.
Q: What is the capital of France? A: Paris. {"name": "arkinfer", "version": [0, 1, 0]} The market
opened at 9:30; by noon, prices had fallen 3.7 % and the rain had stopped.
"""


def cache_scales(
    module: ir.Module, store: ir.WeightStore, tokens: Sequence[int]
) -> dict[str, npt.NDArray[np.float32]]:
    """The largest magnitude of each channel over the tokens, as an int8 scale.

    Args:
        module: fused; its caches still float.
        store: the numbers.
        tokens: at least one id.

    Returns:
        name of the cache -> float32 [kv heads, head_dim], positive.

    Raises:
        UsageError: no token to calibrate on.
    """
    if not tokens:
        raise UsageError(
            "There is no text to calibrate the int8 cache on",
            fix="Give a text of some hundred tokens",
        )
    step = module.functions["step"]
    inputs: dict[str, npt.NDArray[Any]] = {
        "tokens": np.asarray(tokens, np.int64),
        "rows": np.zeros(0, np.int64),
    }
    caches = {v.name: v.type for v in step.inputs if isinstance(v.type, ir.CacheType)}
    for name, kind in caches.items():
        heads = [d for d in kind.shape if isinstance(d, int)]
        inputs[name] = np.zeros((0, *heads), np.float32)
    outputs = ir.run_function(step, inputs, store)
    largest = {name: np.abs(outputs[name]).max(axis=0) for name in caches}
    return {
        name: np.maximum(high * (MARGIN / 127), np.float32(1e-8)).astype(np.float32)
        for name, high in largest.items()
    }
