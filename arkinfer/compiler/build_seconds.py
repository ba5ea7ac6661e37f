"""Predicts how long a build takes, from constants and a short measurement of this machine.

Knows no weights and no backend.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from arkinfer import ir
from arkinfer.compiler import activation_bits
from arkinfer.compiler.activation_bits import work_of
from arkinfer.compiler.calibration.estimate import (
    calibration_seconds,
    product_rate,
    rounding_rate,
)
from arkinfer.compiler.golden import SHORT, TYPICAL, long_length
from arkinfer.compiler.kv_scales import TOKENS
from arkinfer.compiler.options import BuildOptions
from arkinfer.compiler.prepare import Lowered, used_weights
from arkinfer.compiler.weights import elements_per_row, nbytes, rows_of
from arkinfer.models.config import ModelConfig
from arkinfer.packing import Scheme
from arkinfer.quality.measure import token_count

TRACE_SECONDS = (3.0, 0.25)
"""Of starting torch, and per layer, where `_slowness` is 1."""

READ, WRITE = 0.6e9, 0.5e9
"""Bytes per second that a build reads from the checkpoint, and hashes and writes; common disks."""

MULTIPLICATIONS = 15e9
"""Per second, in float32 on the one thread that calibrates, where `_slowness` is 1."""

DEQUANTIZED = 0.2e9
"""Weights per second that become float32 again."""


def build_seconds(
    options: BuildOptions, config: ModelConfig, module: ir.Module, lowered: Sequence[Lowered]
) -> float:
    """Of a build on this machine.

    Args:
        options: checked.
        config: the model.
        module: fused and quantized, its caches kept as asked.
        lowered: for each backend.
    """
    return _writing(lowered, config) + _passes(options, config, module)


def _writing(lowered: Sequence[Lowered], config: ModelConfig) -> float:
    """Tracing, and quantizing at the rate that a small matrix shows now."""
    rates: dict[Scheme, float] = {}
    seconds = (TRACE_SECONDS[0] + TRACE_SECONDS[1] * config.num_hidden_layers) * _slowness()
    known = {name: w for each in lowered for name, w in each.module.weights.items()}
    for weight in used_weights([each.module for each in lowered]):
        count = rows_of(weight) * elements_per_row(weight)
        if isinstance(weight.type, ir.QuantizedType) and _is_rounded(weight, known):
            scheme = weight.type.scheme
            if scheme not in rates:
                rates[scheme] = rounding_rate(scheme)
            seconds += count / rates[scheme]
        seconds += 2 * count / READ + nbytes(weight) / WRITE
    return seconds


def _is_rounded(weight: ir.Weight, known: Mapping[str, ir.Weight]) -> bool:
    """Whether a build quantizes a matrix, or a part of it; others come as they are to be."""
    if weight.source is None:
        return False
    parts = (known[name] for name in weight.source.inputs)
    return weight.source.rule == "rtn" or any(_is_rounded(part, known) for part in parts)


def _passes(options: BuildOptions, config: ModelConfig, module: ir.Module) -> float:
    """Seconds of running the model over texts."""
    length = options.context_for(config)
    seconds = _golden(module, length) + _judging(module, length)
    seconds += _calibration(module) if options.calibrates_cache else 0.0
    seconds += _measuring(module, length) if options.measures_bits else 0.0
    if options.quant.method is not None and options.quant.linear is not None:
        text = options.text
        seconds += calibration_seconds(
            config, options.quant.method, options.quant.linear, text.samples, text.tokens,
            product_rate(),
        )  # fmt: skip
    return seconds


def _golden(module: ir.Module, context: int) -> float:
    """Seconds of golden vectors: a short prompt with the checkpoint's weights, and a long one."""
    linears = [w for n in module.nodes() if n.op.endswith(".linear") for w in n.weights]
    work = sum(rows_of(w) * elements_per_row(w) for w in linears[:-1])  # the last is the head
    long = long_length(work, context, TYPICAL)
    tokens = long + min(SHORT, long)
    return work * (2 / READ + 1 / DEQUANTIZED + tokens / MULTIPLICATIONS * _slowness())


def _judging(module: ir.Module, context: int) -> float:
    """Seconds of measuring what quantization costs: three streams, and two heads."""
    linears = [w for n in module.nodes() if n.op.endswith(".linear") for w in n.weights]
    if not any(isinstance(weight.type, ir.QuantizedType) for weight in linears):
        return 0.0
    *layers, head = [rows_of(weight) * elements_per_row(weight) for weight in linears]
    tokens = token_count(sum(layers), min(TYPICAL, context))
    products = tokens * (3 * sum(layers) + 2 * head)
    moved = (sum(layers) + head) * (2 / READ + 1 / DEQUANTIZED)
    return moved + products / MULTIPLICATIONS * _slowness()


def _calibration(module: ir.Module) -> float:
    """Seconds of a pass over the built-in text."""
    linears = [w for n in module.nodes() if n.op.endswith(".linear") for w in n.weights]
    counts = [rows_of(w) * elements_per_row(w) for w in linears[:-1]]  # the last is the head
    return sum(counts) * (2 / READ + TOKENS / MULTIPLICATIONS * _slowness())


def _measuring(module: ir.Module, context: int) -> float:
    """Seconds of finding out which products need more bits of their input."""
    if not any(node.op == "quant.linear" for node in module.nodes()):
        return 0.0
    work = work_of(module)
    tokens = activation_bits.token_count(work, min(TYPICAL, context))
    tokens += min(tokens, activation_bits.ROWS)
    return work * (2 / READ + tokens / MULTIPLICATIONS * _slowness())


def _slowness() -> float:
    """How much longer plain Python takes here and now than where the constants were measured."""
    began = time.perf_counter()
    total = 0
    for number in range(400_000):
        total += number % 7
    return max(0.3, (time.perf_counter() - began) / 0.020)
