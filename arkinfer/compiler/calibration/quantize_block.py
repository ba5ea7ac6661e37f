"""Quantizes the linears of one block by a method. Knows no checkpoint and no cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count

import numpy as np

from arkinfer.compiler.calibration.block import (
    DOWN,
    GATE_UP,
    MIXED,
    QKV,
    STAGES,
    Between,
    Block,
    Matrix,
    Stage,
)
from arkinfer.packing import QuantizedTensor, Scheme
from arkinfer.quant import Moments, feedback, gptq, round_for_outputs, smoothing
from arkinfer.quant.method import Method

NORMS = {QKV: "input_layernorm.weight", GATE_UP: "post_attention_layernorm.weight"}
"""What makes the inputs of a stage, where that is a norm."""

WRITERS = {MIXED: "self_attn.v_proj.weight", DOWN: "mlp.up_proj.weight"}
"""The matrix of whose outputs the inputs of a stage are made, each for itself."""


@dataclass(frozen=True, eq=False)
class QuantizedBlock:
    """What a method made of a block; names are those within it, "mlp.up_proj.weight".

    Attributes:
        matrices: quantized.
        norms: float32, where they were changed.
    """

    matrices: dict[str, QuantizedTensor]
    norms: dict[str, Matrix]


def quantize_block(
    block: Block,
    tensors: Mapping[str, Matrix],
    schemes: Mapping[str, Scheme],
    method: Method,
    between: Between,
    *,
    threads: int = 1,
    on_part: Callable[[int], None] = lambda done: None,
) -> QuantizedBlock:
    """Quantizes stage by stage; each sees what the ones before it make of the activations.

    Args:
        block: over `tensors`; goes from its inputs to its outputs.
        tensors: the weights, float32; become what the quantized ones stand for.
        schemes: of the matrices to quantize; others stay as they are.
        method: how.
        between: room for activations.
        threads: that work on one matrix.
        on_part: told how many of `parts_of(method)` are done.

    Raises:
        CheckpointError: activations are not finite.
        ResourceError: the disk is full.
    """
    norms: dict[str, Matrix] = {}
    done = count(1)
    if method.smooth:
        norms = _smooth(block, tensors, schemes, method)
        on_part(next(done))
    matrices: dict[str, QuantizedTensor] = {}
    for stage in STAGES:
        names = [name for name in _weights(stage) if name in schemes]
        moments = block.moments(stage, between, method.skip)
        if names:
            made = _quantize([(tensors[n], schemes[n]) for n in names], moments, method, threads)
            matrices |= dict(zip(names, made, strict=True))
        for name in names:
            tensors[name][:] = matrices[name].dequantize()
        on_part(next(done))
    block.finish(between)
    on_part(next(done))
    return QuantizedBlock(matrices, norms)


def parts_of(method: Method) -> int:
    """The parts that `quantize_block` counts."""
    return len(STAGES) + 1 + method.smooth


def _weights(stage: Stage) -> list[str]:
    return [f"{name}.weight" for name in stage]


def _quantize(
    matrices: list[tuple[Matrix, Scheme]], moments: Moments, method: Method, threads: int
) -> list[QuantizedTensor]:
    """Matrices with common inputs; uses the moments up."""
    if not method.feedback:
        return [round_for_outputs(w, moments, scheme, threads) for w, scheme in matrices]
    shared = feedback(
        moments.hessian, act_order=method.act_order, damping=method.damping, threads=threads
    )
    return [
        gptq(w, shared, scheme, static_groups=method.static_groups, threads=threads)
        for w, scheme in matrices
    ]


def _smooth(
    block: Block, tensors: Mapping[str, Matrix], schemes: Mapping[str, Scheme], method: Method
) -> dict[str, Matrix]:
    """Scales inputs up to what computes them; the norms that changed."""
    found = block.all_moments(method.skip)
    changed: dict[str, Matrix] = {}
    for stage, moments in found.items():
        names = [name for name in _weights(stage) if name in schemes]
        source = NORMS.get(stage) or WRITERS[stage]
        writer = tensors[source]
        if not names or len(writer) != moments.hessian.shape[0]:
            continue  # heads that share values: an output of v is an input of o more than once
        scales = smoothing([tensors[n] for n in names], moments, [schemes[n] for n in names])
        for name in _weights(stage):
            tensors[name][:] *= scales
        writer[:] /= scales if writer.ndim == 1 else scales[:, None]
        if stage in NORMS:
            changed[source] = np.array(writer)
    return changed
