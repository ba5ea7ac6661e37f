"""The order of passes that every build takes, from a traced module to one that backends know.

Knows the passes by their names only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from arkinfer.passes.base import Pass
from arkinfer.passes.registry import pass_named

if TYPE_CHECKING:
    from arkinfer.quant import QuantSpec

FUSIONS = (
    "fuse-rms-norm",
    "fuse-rope",
    "fuse-silu-mul",
    "fuse-attention",
    "use-quantized",
    "fuse-qkv",
    "fuse-add",
    "eliminate-dead-code",
    "fold-scalars",
    "eliminate-common-subexpressions",
)
"""What every traced module goes through. Quantized forms that are declared come before q, k and v
are stacked, which works for forms that agree. Sums become `nn.add` when those of RoPE are gone,
and scalars fold when there is an `nn.add` to take them and dead ones are gone."""


def standard_pipeline(
    quant: QuantSpec | None = None, store: str | None = None, activations: str | None = None
) -> list[Pass]:
    """The passes of a build, without what single backends want.

    Args:
        quant: schemes of the linears, and of embedding and head; None: not quantized.
        store: the IR dtype that matrices which are not quantized are stored in; None: as they are.
        activations: what products with quantized matrices take, as the IR calls it; None: what
            each backend is fastest with.
    """
    passes = [pass_named(name) for name in FUSIONS]
    if quant is not None and (quant.linear or quant.embedding):
        linear = quant.linear.name if quant.linear else None
        embedding = quant.embedding.name if quant.embedding else None
        passes.append(pass_named("quantize", linear=linear, embedding=embedding, clip=quant.clip))
    if store is not None:
        passes.append(pass_named("store-weights", dtype=store))
    if activations is not None:
        passes.append(pass_named("set-activations", dtype=activations))
    return [*passes, pass_named("eliminate-dead-code")]
