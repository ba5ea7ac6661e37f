"""What calibration takes: time and memory, from the model's shape and a short measurement. Knows no
numbers of the model, and needs no torch.
"""

from __future__ import annotations

import os
import time

import numpy as np

from arkinfer.compiler.calibration.activations import BATCH, LIMIT
from arkinfer.models.config import ModelConfig
from arkinfer.packing import Scheme
from arkinfer.quant import round_to_nearest
from arkinfer.quant.awq import CLIPS, STEPS
from arkinfer.quant.method import METHODS, Method
from arkinfer.words import duration

WORTH_SAYING = 60.0
"""Seconds from which on a user is told before they are spent."""

ROUNDING = 120e-9
"""Seconds per weight that GPTQ spends outside of products, on one thread."""

CLIPPING = 6e-9
"""Seconds per weight and range that AWQ's search spends outside of products, on one thread."""

OVERHEAD = 1.25
"""Of a forward pass over its products: norms, rotations, softmax, and waiting for each other."""

_SAMPLE = 1024
"""Rows of a matrix that judge AWQ's scales."""


def calibration_seconds(
    config: ModelConfig, method: Method, scheme: Scheme, samples: int, tokens: int, rate: float
) -> float:
    """Of all blocks, on all cores of this machine.

    Args:
        config: the model's.
        method: how.
        scheme: of the linears.
        samples: sequences.
        tokens: of each.
        rate: multiplications and additions per second that all cores do; see `product_rate`.
    """
    threads, seen = _threads(), samples * tokens
    matrices = _linears(config)
    weights = sum(rows * columns for rows, columns in matrices)
    inputs = _inputs(config)
    forward = (2 * weights + 2 * tokens * inputs[1]) * seen * OVERHEAD
    moments = sum(k * k for k in inputs) * seen
    work = (forward + moments) * (2 if method.smooth else 1)
    spent = 0.0
    if method.smooth:
        work += sum(2 * STEPS * min(n, _SAMPLE) * k * k for n, k in matrices)
    if method.feedback:
        work += sum(k**3 for k in inputs) + sum(n * k * k for n, k in matrices)
        spent += weights * ROUNDING
    else:
        work += sum(2 * len(CLIPS) * n * k * scheme.group_size(k) for n, k in matrices)
        spent += weights * CLIPPING * len(CLIPS)
    return config.num_hidden_layers * (work / rate + spent / threads)


def calibration_memory(config: ModelConfig, method: Method, samples: int, tokens: int) -> int:
    """Bytes at the peak: a block, moments of its inputs, and activations that are not on disk."""
    weights = sum(rows * columns for rows, columns in _linears(config))
    widths = _inputs(config)
    squares = sum(k * k for k in widths) if method.smooth else 2 * max(k * k for k in widths)
    stream = samples * tokens * config.hidden_size
    places = samples * tokens * sum(widths[1:]) * 4
    batch = 3 * max(BATCH, tokens) * max(widths)
    return 4 * (weights + max(squares, stream) + batch) + min(LIMIT, places)


def spilled_bytes(config: ModelConfig, samples: int, tokens: int) -> int:
    """Of the disk, at most: activations that are not in memory, and quantized matrices."""
    activations = samples * tokens * sum(_inputs(config)[1:]) * 4
    matrices = config.num_hidden_layers * sum(n * k for n, k in _linears(config))
    return max(0, activations - LIMIT) + matrices


def product_rate() -> float:
    """Multiplications and additions per second of all cores of this machine, now, in float32."""
    from threadpoolctl import threadpool_limits

    x = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32)
    best = 0.0
    with threadpool_limits(limits=1, user_api="blas"):
        for _ in range(3):
            began = time.perf_counter()
            np.matmul(x, x)
            best = max(best, 2 * len(x) ** 3 / (time.perf_counter() - began))
    return best * _threads()


def rounding_rate(scheme: Scheme) -> float:
    """Weights per second of round-to-nearest on this machine, now."""
    sample = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32)
    began = time.perf_counter()
    round_to_nearest(sample, scheme)
    return sample.size / (time.perf_counter() - began)


def estimate_note(
    config: ModelConfig,
    method: Method,
    scheme: Scheme,
    samples: int,
    tokens: int,
    source: str,
    left: float,
) -> str:
    """A sentence on what calibration will take and what would take less; "" if it is not long.

    Args:
        config, method, scheme, samples, tokens: as `calibration_seconds`.
        source: where the text is from.
        left: the share of the blocks that is not done yet.
    """
    rate = product_rate()
    own = calibration_seconds(config, method, scheme, samples, tokens, rate) * left
    if own < WORTH_SAYING:
        return ""
    others = {
        other.name: calibration_seconds(config, other, scheme, samples, tokens, rate)
        for other in METHODS.values()
    }
    quicker = [f"{name} takes about {duration(s)}" for name, s in others.items() if s < 0.8 * own]
    free = scheme.name.removesuffix("-actorder")
    count = config.num_hidden_layers * sum(n * k for n, k in _linears(config))
    quicker.append(
        f"{free} needs no data and takes about {duration(count / rounding_rate(scheme))}"
    )
    return (
        f"Calibrating by {method.name} takes about {duration(own)} here, with {samples} sequences "
        f"of {tokens} tokens of {source}; {', '.join(quicker)}."
    )


def _linears(config: ModelConfig) -> list[tuple[int, int]]:
    """Shapes of a block's matrices."""
    shapes = config.tensor_shapes()
    own = [shape for name, shape in shapes.items() if name.startswith("model.layers.0.")]
    return [(shape[0], shape[1]) for shape in own if len(shape) == 2]


def _inputs(config: ModelConfig) -> tuple[int, int, int, int]:
    """Widths of what a block's linears read: q, k and v; o; gate and up; down."""
    heads = config.num_attention_heads * config.head_dim
    return config.hidden_size, heads, config.hidden_size, config.intermediate_size


def _threads() -> int:
    return len(os.sched_getaffinity(0))
