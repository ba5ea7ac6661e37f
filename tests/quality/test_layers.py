"""A traced step in parts computes what it computes as a whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arkinfer import ir
from arkinfer.errors import InternalError
from arkinfer.frontend.trace import trace
from arkinfer.models.config import ModelConfig
from arkinfer.quality.layers import Stream, first_values, layered, run
from arkinfer.testing import FAMILY, family

TOKENS = np.arange(3, 14)


class FamilyWeights:
    """Random weights with angles that are some."""

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        self._config, self._random = config, ir.RandomWeights(seed)
        self.loads: list[str] = []

    def load(self, weight: ir.Weight) -> Any:
        self.loads.append(weight.name)
        if weight.name == "model.rotary.inv_freq":
            return self._config.rope.inv_freq(self._config.head_dim, 64)
        return self._random.load(weight) * np.float32(0.05)


def whole(traced: ir.Module, store: FamilyWeights) -> dict[str, Any]:
    step = traced.functions["step"]
    inputs: dict[str, Any] = {"tokens": TOKENS, "rows": np.arange(len(TOKENS))}
    for value in step.inputs[2:]:
        inputs[value.name] = np.zeros((0, *value.type.shape[1:]), np.float32)
    return ir.run_function(step, inputs, store)


@pytest.mark.parametrize("name", FAMILY)
def test_all_parts_one_after_the_other_are_the_step(name: str) -> None:
    config = family(name)
    traced, store = trace(config, 64), FamilyWeights(config)
    parts = layered(traced)
    assert [part.path for part in parts.layers] == [
        f"model.layers.{i}" for i in range(config.num_hidden_layers)
    ]
    values, symbols = first_values(parts, TOKENS)
    stream = Stream(0, values)
    for part in (parts.before, *parts.layers, parts.after):
        run(part, [stream], [store], symbols)
    logits = stream.values[parts.after.result] @ store.load(parts.head).T
    np.testing.assert_allclose(logits, whole(traced, store)["logits"], rtol=1e-5, atol=1e-6)


def test_streams_read_their_own_weights_each_of_which_is_loaded_once() -> None:
    config = family("tied")
    parts = layered(trace(config, 64))
    stores = [FamilyWeights(config, seed) for seed in (0, 1)]
    values, symbols = first_values(parts, TOKENS)
    streams = [Stream(0, values), Stream(1, dict(values))]
    run(parts.before, streams, stores, symbols)
    first = parts.layers[0]
    probe = streams[0].fork(1)
    run(first, [*streams, probe], stores, symbols)
    exact, other, mixed = (stream.values[first.result] for stream in (*streams, probe))
    assert not np.allclose(exact, other)
    assert not np.allclose(mixed, other)  # other weights, but the first one's input
    assert not np.allclose(mixed, exact)
    for store in stores:
        layer = [name for name in store.loads if name.startswith("model.layers.0.")]
        assert len(layer) == len(set(layer)) == 9


def test_what_only_a_layer_needs_is_dropped() -> None:
    config = family("tied")
    parts = layered(trace(config, 64))
    values, symbols = first_values(parts, TOKENS)
    stream = Stream(0, values)
    run(parts.before, [stream], [FamilyWeights(config)], symbols)
    before, first = set(stream.values), parts.layers[0]
    run(first, [stream], [FamilyWeights(config)], symbols)
    assert set(stream.values) == before - {first.source} | {first.result}


def test_a_module_without_layers_is_refused() -> None:
    text = """module
weight @table : f32[9, 4]
func @step(%tokens: i64[T], %rows: i64[R]) {
  %0 = nn.embedding(%tokens, @table) {scale = 1.0} : f32[T, 4]
  %1 = tensor.take(%0, %rows) : f32[R, 4]
  %2 = nn.linear(%1, @table) : f32[R, 9]
  return logits = %2
}
"""
    with pytest.raises(InternalError, match="has no layers"):
        layered(ir.parse_module(text))
