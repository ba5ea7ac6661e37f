"""Every registered backend on the same models, op by op and whole, against the float64 oracle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from arkinfer import ir
from arkinfer.backend import compilers
from arkinfer.errors import UnsupportedError
from tests.backends.lab import Lab, error, executors
from tests.backends.models import MODELS


@dataclass(frozen=True)
class Tolerance:
    """The largest error of a logit, in standard deviations of the logits.

    Attributes:
        dense: of a model whose matrices are floats.
        quantized: of one with `quant.*` ops.
    """

    dense: float
    quantized: float


TOLERANCES = {
    "reference": Tolerance(2e-5, 2e-5),
    # Activations are quantized to int8 by block (accuracy level 4); the head is, too.
    "onnxruntime": Tolerance(1e-4, 0.08),
    "tvm": Tolerance(1e-4, 1e-4),
    # The network computes in float16; in float32 it is held to 1e-4, in trt/test_network.py.
    "tensorrt": Tolerance(0.01, 0.01),
}
REFUSED = {
    "onnxruntime": {
        "quant.linear int4-g32-min", "quant.linear int3-g32", "quant.linear int5-g32",
        "quant.linear int6-g64-asym", "quant.embedding int4-g32-min", "quant.embedding int3-g32",
    },
    "tensorrt": {
        *(f"quant.linear {scheme}" for scheme in (
            "int4-g32-asym", "int4-g128-asym", "int4-g32-min", "int4-g32-actorder",
            "int8-g32-asym", "int8-row-asym", "int2-g64", "int2-g128", "int2-g64-asym",
            "int3-g32", "int5-g32", "int6-g64-asym",
        )),
        *(f"quant.embedding {scheme}" for scheme in (
            "int4-g128-asym", "int4-g32-min", "int8-g32-asym", "int2-g64", "int3-g32",
        )),
    },
}  # fmt: skip
"""Models that a backend has no home for, which it has to say. Every other one it runs."""


@pytest.mark.parametrize("name", MODELS)
def test_logits(backend: str, name: str, lab: Lab) -> None:
    """A whole chunk, a part of one and a single token; or a refusal that says why."""
    model = MODELS[name]
    if name in REFUSED.get(backend, set()):
        with pytest.raises(UnsupportedError) as refusal:
            lab.path(backend, model)
        assert refusal.value.why
        assert "has no home on" in refusal.value.what
        return
    tokens = model.tokens(20)
    state = lab.executable(backend, model).new_state(24)
    parts = [state.step(tokens[a:b], rows="all").logits for a, b in ((0, 16), (16, 19), (19, 20))]
    allowed = TOLERANCES[backend]
    quantized = model.linear or model.embedding
    got = error(np.concatenate(parts), lab.answer(model, tokens))
    assert got < (allowed.quantized if quantized else allowed.dense)


def test_every_op_of_a_legal_module_is_shown() -> None:
    shown = {node.op for model in MODELS.values() for node in model.module.nodes()}
    fused = {op for op in ir.OPS if not op.startswith("tensor.")}
    assert fused <= shown


def test_every_compiler_has_an_executor() -> None:
    assert set(compilers()) == set(executors()) == set(TOLERANCES)
