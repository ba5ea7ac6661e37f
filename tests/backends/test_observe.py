"""What executables show of their steps, by name, against the float64 oracle of the same module."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arkinfer import ir
from arkinfer.artifact import open_artifact
from arkinfer.runtime.contract import LoadOptions
from tests.backends.expectations import REFUSED, TOLERANCES
from tests.backends.lab import ON_CPU, Lab, LabStore, Model, empty_caches
from tests.backends.models import MODELS

Array = np.ndarray[Any, Any]

NAMES = (
    "three layers", "three layers int4", "three layers int4, int8 cache",
    "three layers int4, int8 cache by token", "llama int8",
)  # fmt: skip

ALWAYS = ("nn.add", "nn.embedding", "nn.linear", "nn.rms_norm", "quant.embedding", "quant.linear")
"""Ops whose results every backend has in memory; others may be inside of its kernels."""

INSIDE = {
    "tvm": {
        "nn.rms_norm": {"quant.linear"},
        "nn.linear": {"nn.add", "nn.silu_mul"},
        "quant.linear": {"nn.add", "nn.silu_mul"},
    }
}
"""Of these, what a backend may have inside of its kernels, and which ops alone read it then."""


def module_of(backend: str, model: Model, lab: Lab) -> ir.Module:
    with open_artifact(lab.path(backend, model)) as artifact:
        entry = artifact.sections[backend].ir
        return ir.parse_module(artifact.read(entry).decode())


def oracle(module: ir.Module, model: Model, tokens: Array) -> dict[str, Array]:
    """Every value of a step from empty caches, float64, by name."""
    step = module.functions["step"]
    names, found = ir.value_names(step), dict[str, Array]()

    def show(node: ir.Node, results: list[Array]) -> None:
        found.update(zip((names[value] for value in node.results), results, strict=True))

    inputs = {"tokens": tokens, "rows": np.arange(len(tokens)), **empty_caches(step)}
    store = LabStore(module.weights, model.leaves)
    ir.run_function(step, inputs, store, dtype=np.float64, observe=show)
    return found


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest, backend: str) -> Model:
    if backend in ON_CPU or request.param in REFUSED[backend]:
        pytest.skip("this backend does not run it here")
    return MODELS[request.param]


def test_the_section_keeps_its_ir(backend: str, lab: Lab) -> None:
    model = MODELS["three layers int4"]
    assert module_of(backend, model, lab) == lab.lowered(backend, model).module


def test_values_are_the_oracles(backend: str, model: Model, lab: Lab) -> None:
    module = module_of(backend, model, lab)
    step = module.functions["step"]
    names = ir.value_names(step)
    expected = oracle(module, model, model.tokens(13))
    state = lab.open(backend, model, LoadOptions(2, observe=True)).new_state(24)
    shown: dict[str, Array] = {}
    logits = state.observe(model.tokens(13), shown.__setitem__).logits
    allowed = TOLERANCES[backend].quantized if model.linear else TOLERANCES[backend].dense
    for name, got in shown.items():
        assert got.shape == expected[name].shape, name
        if got.dtype.kind == "f":
            error, size = got - expected[name], expected[name]
            assert np.sqrt(np.mean(error**2) / np.mean(size**2)) < allowed, name
    for node in step.nodes:
        if node.op in ALWAYS and names[node.result] not in shown:
            readers = {user.op for user in step.nodes if node.result in user.values}
            assert node.result not in step.outputs
            assert readers <= INSIDE.get(backend, {}).get(node.op, set()), names[node.result]
    assert [names[v] for n in step.nodes for v in n.results if names[v] in shown] == list(shown)
    np.testing.assert_array_equal(shown[names[step.outputs[0]]], logits)


def test_a_step_that_is_observed_is_a_step(backend: str, model: Model, lab: Lab) -> None:
    tokens = model.tokens(20)
    state = lab.open(backend, model, LoadOptions(2, observe=True)).new_state(24)
    state.observe(tokens[:7], lambda name, value: None)
    caches: dict[str, Array] = {}
    parts = [state.observe(tokens[7:8], caches.__setitem__, rows="last").logits]
    parts.append(state.step(tokens[8:20], rows="all").logits)
    assert state.length == 20
    plain = lab.executable(backend, model).new_state(24)
    plain.step(tokens[:7], rows="none")
    wanted = [plain.step(tokens[7:8]).logits, plain.step(tokens[8:20], rows="all").logits]
    np.testing.assert_allclose(np.concatenate(parts), np.concatenate(wanted), rtol=0, atol=1e-4)


def test_nothing_is_shown_unless_asked_for(backend: str, model: Model, lab: Lab) -> None:
    executable = lab.executable(backend, model)
    assert not executable.features & {"values", "times"}
