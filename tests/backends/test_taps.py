"""The feature "taps": hidden states by name, against the float64 oracle of the module."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from arkinfer import ir
from arkinfer.errors import UsageError
from arkinfer.runtime.features import Drafting, Tapped
from tests.backends.expectations import TOLERANCES
from tests.backends.lab import Lab, Model, empty_caches
from tests.backends.models import MODELS

pytestmark = pytest.mark.feature("taps")

Array = npt.NDArray[Any]

NAMES = ("three layers", "three layers int4", "llama int8", "nn.linear untied head")
MODEL = MODELS["three layers"]
HIDDEN = 128


def tapped(backend: str, model: Model, lab: Lab) -> Tapped:
    return cast(Tapped, lab.executable(backend, model))


def layers(model: Model) -> int:
    return model.config.num_hidden_layers


def oracle(model: Model, tokens: Array) -> dict[str, Array]:
    """Every sum of the residual stream by the end of its layer, float64; and the head's input."""
    step = model.module.functions["step"]
    found: dict[str, Array] = {}

    def show(node: ir.Node, results: list[Array]) -> None:
        if node.op == "nn.add" and node.loc.startswith("model.layers."):
            found[node.loc.removeprefix("model.")] = results[0]  # the last of each layer stays
        if node.loc == "model.norm":
            found["final"] = results[0]

    inputs = {"tokens": tokens, "rows": np.arange(len(tokens)), **empty_caches(step)}
    ir.run_function(step, inputs, model.store, dtype=np.float64, observe=show)
    return found


def near(got: Array, expected: Array, tolerance: float) -> bool:
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / expected.std()) < tolerance


@pytest.mark.parametrize("name", NAMES)
def test_taps_are_the_models_hidden_states(backend: str, name: str, lab: Lab) -> None:
    """Also of a chunk after others, and of a single token."""
    model = MODELS[name]
    executable = tapped(backend, model, lab)
    taps = (*(f"layers.{i}" for i in range(layers(model))), "final")
    assert executable.taps == taps
    tokens = model.tokens(20, seed=1)
    expected = oracle(model, tokens)
    assert set(expected) == set(taps)
    state = executable.new_state(24)
    allowed = TOLERANCES[backend].quantized if model.linear else TOLERANCES[backend].dense
    for start, stop in ((0, 16), (16, 19), (19, 20)):
        output = state.step(tokens[start:stop], taps=taps)
        assert tuple(output.taps) == taps
        assert output.logits.shape == (1, model.config.vocab_size)
        for tap, rows in output.taps.items():
            assert near(rows, expected[tap][start:stop], allowed), tap


def test_the_head_times_final_is_the_logits(backend: str, lab: Lab) -> None:
    """The logits' divisor is in it: whoever has the head's rows needs nothing else."""
    model = MODELS["nn.linear untied head"]
    tokens = model.tokens(9, seed=2)
    output = tapped(backend, model, lab).new_state(9).step(tokens, rows="all", taps=("final",))
    head = model.leaves.rows("lm_head.weight", 0, model.config.vocab_size)
    logits = output.taps["final"].astype(np.float64) @ head.astype(np.float64).T
    assert near(output.logits, logits, TOLERANCES[backend].dense)


@pytest.mark.parametrize("rows", ["last", "all", "none"])
def test_all_tokens_have_them_whatever_rows_are_wanted(backend: str, rows: Any, lab: Lab) -> None:
    tokens = MODEL.tokens(7, seed=3)
    state = tapped(backend, MODEL, lab).new_state(7)
    output = state.step(tokens, rows=rows, taps=("final", "layers.1"))
    expected = oracle(MODEL, tokens)
    assert list(output.taps) == ["final", "layers.1"] or set(output.taps) == {"final", "layers.1"}
    for tap, found in output.taps.items():
        assert near(found, expected[tap], TOLERANCES[backend].dense)
    assert len(output.logits) == {"last": 1, "all": 7, "none": 0}[rows]


def test_taps_change_no_logits_and_belong_to_the_caller(backend: str, lab: Lab) -> None:
    tokens = MODEL.tokens(6, seed=4)
    executable = tapped(backend, MODEL, lab)
    plain, state = executable.new_state(8), executable.new_state(8)
    first = state.step(tokens[:3], taps=executable.taps)
    np.testing.assert_array_equal(first.logits, plain.step(tokens[:3]).logits)
    kept = {tap: rows.copy() for tap, rows in first.taps.items()}
    second = state.step(tokens[3:], taps=("layers.2",))
    for tap, rows in first.taps.items():
        np.testing.assert_array_equal(rows, kept[tap])
        rows[:] = 0
    np.testing.assert_array_equal(second.logits, plain.step(tokens[3:]).logits)


def test_nothing_is_tapped_unless_asked_for(backend: str, lab: Lab) -> None:
    state = tapped(backend, MODEL, lab).new_state(8)
    assert state.step(MODEL.tokens(3)).taps == {}
    assert state.step(MODEL.tokens(3), taps=()).taps == {}


@pytest.mark.parametrize(
    ("tap", "text"),
    [
        ("layers.3", 'There is no tap "layers.3". Did you mean "layers.2"? There are layers.0 to '
         "final."),
        ("embedding", 'There is no tap "embedding". There are layers.0 to final.'),
    ],
)  # fmt: skip
def test_taps_that_are_not_there(backend: str, tap: str, text: str, lab: Lab) -> None:
    state = tapped(backend, MODEL, lab).new_state(8)
    with pytest.raises(UsageError) as refusal:
        state.step(MODEL.tokens(3), taps=("final", tap))
    assert str(refusal.value) == text
    assert state.length == 0


def test_drafts_have_taps_too(backend: str, lab: Lab) -> None:
    """Of each token on its own path."""
    executable = tapped(backend, MODEL, lab)
    if "tree" not in executable.features:
        pytest.skip("this backend drafts nothing")
    held, tokens = MODEL.tokens(6, seed=5), MODEL.tokens(4, seed=6)
    state = cast(Drafting, executable.new_state(12))
    state.step(held)
    output = state.draft(tokens, np.array([-1, 0, 0, 1]), taps=executable.taps)
    for path in ([0, 1, 3], [0, 2]):
        expected = oracle(MODEL, np.concatenate([held, tokens[path]]))
        for tap, rows in output.taps.items():
            assert near(rows[path], expected[tap][len(held) :], TOLERANCES[backend].dense)
