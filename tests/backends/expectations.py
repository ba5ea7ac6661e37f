"""What each backend is held to: how close, which models it may refuse, and what runs by default."""

from __future__ import annotations

from dataclasses import dataclass

from tests.backends.models import CACHED, EVERY, QUANT_EMBEDDING, QUANT_LINEAR, WHOLE


@dataclass(frozen=True)
class Tolerance:
    """The largest error of a logit, in standard deviations of the logits.

    Attributes:
        dense: of a model whose matrices are floats.
        quantized: of one with `quant.*` ops, unless they take activations as they are.
    """

    dense: float
    quantized: float


FEATURES: dict[str, set[str]] = {
    "reference": {"tree", "taps", "persist"},
    "onnxruntime": set(),
    "tvm": {"tree", "taps", "persist"},
    "tensorrt": set(),
}
"""What a backend declares beyond the contract of states, no more and no less."""

TOLERANCES = {
    "reference": Tolerance(2e-5, 2e-5),
    # Activations are quantized to int8 by block (accuracy level 4), in front of the head, too.
    # Measured: up to 0.046. An activation on a rounding boundary may fall on either side of it
    # when a kernel for one row adds in another order than that for many: as much again.
    "onnxruntime": Tolerance(2e-5, 0.08),
    # Activations are quantized to int8 by group of at most 128, scales are kept in float16.
    "tvm": Tolerance(2e-5, 0.08),
    # The network computes in float16; measured: up to 0.004. In float32 it is held to 1e-4, in
    # trt/test_network.py.
    "tensorrt": Tolerance(0.01, 0.01),
}

ON_BOUNDARY = 2e-3
"""What caches add that are rounded: of thousands of numbers, one may lie on a rounding boundary,
and fall on the other side of it than in float64. Measured: 5e-4 of a code, 1.4e-4 of a bf16 number.
int8 models of a single op have no such code, and are held to their own tolerances."""

IN_BFLOAT16 = {"tvm": 0.01}
"""What bf16 caches add where attention computes with bfloat16, as the processor offers it: queries
and weights are rounded like keys and values. Measured: up to 0.007."""

IN_BYTES = {"tvm": 2e-4}
"""What int8 caches add where attention multiplies bytes: queries and weights are rounded to 16
bits. Measured: up to 1e-4."""

_ODD_BITS = {f"quant.linear {s}" for s in ("int3-g32", "int5-g32", "int6-g64-asym")}

REFUSED: dict[str, set[str]] = {
    "reference": set(),
    "onnxruntime": {
        *_ODD_BITS, "quant.linear int4-g32-min", "quant.embedding int4-g32-min",
        "quant.embedding int3-g32",
        *(m.name for m in (*CACHED, *WHOLE) if m.cache in ("token", "bf16", "f16")),
    },
    "tvm": set(),
    "tensorrt": {
        *(m.name for m in (*CACHED, *WHOLE) if m.cache not in ("f32", "f16")),
        *(m.name for m in EVERY if m.activations == "f32"),
        *(m.name for m in QUANT_LINEAR if m.linear not in (
            "int2-g64", "int2-g128", "int4-g16", "int4-g32", "int4-g64", "int4-g128", "int4-row",
            "int8-g32", "int8-g128", "int8-row",
        )),
        *(m.name for m in QUANT_EMBEDDING if m.embedding not in (
            "int2-g64", "int4-g32", "int4-row", "int8-g32", "int8-row",
        )),
    },
}  # fmt: skip
"""Models that a backend has no home for, which it has to say. Every other one it runs."""

QUICK = {
    "tvm": {
        "nn.rope given factor", "attn.dense group 3 of 2", "quant.linear int4-g128-asym",
        "quant.linear int4-g32-actorder", "attn.dense int8, group 8",
        "attn.dense int8 by token, group 8", "three layers", "three layers int4", "llama int8",
    },
}  # fmt: skip
"""Where each model is compiled to machine code, those that every run of the tests builds; the
others are marked slow."""
