"""Matrices whose stored form a backend has no fast path for, and what takes its place.

A checkpoint's numbers are kept as they are unless a user says otherwise: each rounding adds to the
errors of the one before. Knows no backend by name and no file format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from arkinfer import ir
from arkinfer.backend import Compiler
from arkinfer.ir import Builder, QuantizedType, TensorType, Value, Weight, dim
from arkinfer.models.config import ModelConfig
from arkinfer.packing import Scheme
from arkinfer.quant import QuantSpec, replacement
from arkinfer.targets import Target

EMBEDDING = "model.embed_tokens.weight"
OUTER = (EMBEDDING, "lm_head.weight")

_LEVELS = ("no", "slow", "fast")


@dataclass(frozen=True)
class Again:
    """A matrix that is quantized again: from what, to what, and why."""

    before: Scheme
    after: Scheme
    why: str


def requantized(
    config: ModelConfig,
    schemes: Mapping[str, Scheme],
    compilers: Sequence[Compiler],
    target: Target,
    quant: QuantSpec,
    beside: Sequence[Compiler] = (),
) -> dict[str, Again]:
    """The matrices that run faster in another form, or in another form only.

    Args:
        config: the model.
        schemes: what the checkpoint has quantized.
        compilers: who all must run it.
        target: on what.
        quant: what to quantize to; where it says nothing, see `arkinfer.quant.replacement`.
        beside: who must run it as well, however slowly.

    Raises:
        UnsupportedError: the group of `quant` does not divide a matrix's inputs.
    """
    shapes = config.tensor_shapes()
    found: dict[str, Again] = {}
    for name, scheme in schemes.items():
        rows, columns = shapes[name]
        wanted = quant.embedding if name in OUTER else quant.linear
        after = replacement(scheme, columns, wanted)
        before, why = _level(config, name, scheme, (rows, columns), compilers, target)
        other, _ = _level(config, name, after, (rows, columns), compilers, target)
        runs, refusal = _level(config, name, scheme, (rows, columns), beside, target)
        if after != scheme and (before < other or not runs):
            found[name] = Again(scheme, after, why if before < other else refusal)
    return found


def sentences(again: Mapping[str, Again]) -> tuple[str, ...]:
    """One for each kind of change."""
    counts: dict[Again, int] = {}
    for each in again.values():
        counts[each] = counts.get(each, 0) + 1
    return tuple(
        f"{count} {'matrix was' if count == 1 else 'matrices were'} {each.before.name} and rounded "
        f"once more, to {each.after.name}: {each.why}"
        for each, count in counts.items()
    )


def _level(
    config: ModelConfig,
    name: str,
    scheme: Scheme,
    shape: tuple[int, int],
    compilers: Sequence[Compiler],
    target: Target,
) -> tuple[int, str]:
    """How well the worst of the backends runs it, and what that one says."""
    nodes = [_node(op, scheme, shape) for op in _ops(config, name)]
    worst, why = len(_LEVELS), ""
    for compiler in compilers:
        for node in nodes:
            support = compiler.supports(node, target)
            if _LEVELS.index(support.level) < worst:
                worst, why = _LEVELS.index(support.level), support.reason
    return worst, why


def _ops(config: ModelConfig, name: str) -> tuple[str, ...]:
    if name != EMBEDDING:
        return ("quant.linear",)
    return (
        ("quant.embedding", "quant.linear") if config.tie_word_embeddings else ("quant.embedding",)
    )


def _node(op: str, scheme: Scheme, shape: tuple[int, int]) -> ir.Node:
    """A node like those of the module that reads such a matrix."""
    weight = Weight("matrix", QuantizedType(scheme, shape))
    table = op == "quant.embedding"
    kind = TensorType("i64", (dim("T"),)) if table else TensorType("f32", (dim("T"), shape[1]))
    builder = Builder(ir.infer_types)
    builder.add(op, Value(kind, "x"), weight, **ir.complete_attributes(op, {}))
    return builder.nodes[0]
