"""Every registered backend on the same models, op by op and whole, against the float64 oracle."""

from __future__ import annotations

import numpy as np
import pytest

from arkinfer import ir
from arkinfer.backend import compilers
from arkinfer.errors import UnsupportedError
from tests.backends.expectations import IN_BFLOAT16, IN_BYTES, ON_BOUNDARY, REFUSED, TOLERANCES
from tests.backends.lab import Lab, error, executors
from tests.backends.models import DEEP, MODELS, WHOLE


@pytest.mark.parametrize("shown", MODELS)
def test_every_node_has_a_home_or_a_reason(backend: str, shown: str, lab: Lab) -> None:
    if shown in REFUSED[backend]:
        with pytest.raises(UnsupportedError) as refusal:
            lab.lowered(backend, MODELS[shown])
        assert f"has no home on {backend} for" in refusal.value.what
        assert refusal.value.why
    else:
        placement = lab.lowered(backend, MODELS[shown]).placement
        assert all(reason for _, reason in placement.slow)


@pytest.mark.parametrize("name", MODELS)
def test_logits(backend: str, name: str, lab: Lab) -> None:
    """A whole chunk, a part of one and a single token."""
    model = MODELS[name]
    tokens = model.tokens(20)
    state = lab.executable(backend, model).new_state(24)
    parts = [state.step(tokens[a:b], rows="all").logits for a, b in ((0, 16), (16, 19), (19, 20))]
    allowed = TOLERANCES[backend]
    quantized = (model.linear or model.embedding) and model.activations == "any"
    got = error(np.concatenate(parts), lab.answer(model, tokens))
    near = model.cache in ("bf16", "f16") or (model.cache != "f32" and model in WHOLE)
    rounded = ON_BOUNDARY if near else 0.0
    if model.cache == "bf16":
        rounded = max(rounded, IN_BFLOAT16.get(backend, 0.0))
    elif model.cache != "f32":
        rounded = max(rounded, IN_BYTES.get(backend, 0.0))
    assert got < (allowed.quantized if quantized else allowed.dense) + rounded


def test_logits_at_depth(backend: str, lab: Lab) -> None:
    tokens = DEEP.tokens(377)
    state = lab.executable(backend, DEEP).new_state(400)
    bounds = ((0, 160), (160, 320), (320, 375), (375, 376), (376, 377))
    parts = [state.step(tokens[a:b], rows="all").logits for a, b in bounds]
    assert error(np.concatenate(parts), lab.answer(DEEP, tokens)) < TOLERANCES[backend].dense


def test_every_op_of_a_legal_module_is_shown() -> None:
    shown = {node.op for model in MODELS.values() for node in model.module.nodes()}
    fused = {op for op in ir.OPS if not op.startswith("tensor.")}
    assert fused <= shown


def test_every_compiler_has_an_executor() -> None:
    assert set(compilers()) == set(executors()) == set(TOLERANCES)
