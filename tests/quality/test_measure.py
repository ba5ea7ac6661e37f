"""What quantization costs, against plain formulas on whole matrices of logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arkinfer import ir
from arkinfer.frontend.trace import trace
from arkinfer.models.config import ModelConfig
from arkinfer.packing import parse_scheme
from arkinfer.quality.measure import measure, token_count, work_of
from arkinfer.quality.report import parse_quality
from arkinfer.quant import round_to_nearest
from arkinfer.testing import family

TOKENS = [1, 7, 3, 22, 9, 9, 4, 31, 2, 17]


class Weights:
    """Seeded weights; of some layers as they are after quantization."""

    def __init__(self, config: ModelConfig, quantized: tuple[str, ...] = ()) -> None:
        self._config, self._random, self._quantized = config, ir.RandomWeights(3), quantized

    def load(self, weight: ir.Weight) -> Any:
        if weight.name == "model.rotary.inv_freq":
            return self._config.rope.inv_freq(self._config.head_dim, 64)
        found = self._random.load(weight) * np.float32(0.08)
        if found.ndim == 2 and weight.name.startswith(self._quantized):
            return round_to_nearest(found, parse_scheme("int4-g32")).dequantize()
        return found

    def rows(self, weight: ir.Weight, start: int, stop: int) -> Any:
        return self.load(weight)[start:stop]


def logits(traced: ir.Module, store: Weights) -> Any:
    step = traced.functions["step"]
    inputs: dict[str, Any] = {"tokens": np.asarray(TOKENS), "rows": np.arange(len(TOKENS))}
    for value in step.inputs[2:]:
        inputs[value.name] = np.zeros((0, *value.type.shape[1:]), np.float32)
    return ir.run_function(step, inputs, store)["logits"].astype(np.float64)


def log_softmax(x: Any) -> Any:
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return family("untied")


@pytest.fixture(scope="module")
def traced(config: ModelConfig) -> ir.Module:
    return trace(config, 64)


def test_divergence_and_perplexity(config: ModelConfig, traced: ir.Module) -> None:
    source, stored = Weights(config), Weights(config, ("model.layers.",))
    found = measure(traced, source, stored, TOKENS)
    p, q = (log_softmax(logits(traced, weights)) for weights in (source, stored))
    kl = (np.exp(p) * (p - q)).sum(axis=-1)
    assert found.tokens == len(TOKENS)
    assert found.mean_kl == pytest.approx(kl.mean(), rel=1e-4)
    assert found.p99_kl == pytest.approx(np.quantile(kl, 0.99), rel=1e-4)
    assert found.same_top1 == (p.argmax(-1) == q.argmax(-1)).mean()
    for scores, expected in ((p, found.source_perplexity), (q, found.perplexity)):
        picked = [scores[i, token] for i, token in enumerate(TOKENS[1:])]
        assert expected == pytest.approx(np.exp(-np.mean(picked)), rel=1e-5)


def test_each_layer_is_charged_with_its_own_error(config: ModelConfig, traced: ir.Module) -> None:
    last = config.num_hidden_layers - 1
    only = Weights(config, (f"model.layers.{last}.",))
    found = measure(traced, Weights(config), only, TOKENS)
    assert [layer.own > 0 for layer in found.layers] == [False] * last + [True]
    assert found.layers[last].own == found.layers[last].whole
    assert found.most_sensitive()[0].path == f"model.layers.{last}"
    first = Weights(config, ("model.layers.0.",))
    found = measure(traced, Weights(config), first, TOKENS)
    assert [layer.own > 0 for layer in found.layers] == [True] + [False] * last
    assert all(layer.whole > 0 for layer in found.layers)


def test_the_same_weights_cost_nothing(config: ModelConfig, traced: ir.Module) -> None:
    found = measure(traced, Weights(config), Weights(config), TOKENS)
    assert (found.mean_kl, found.same_top1, found.perplexity_ratio) == (0, 1, 1)


def test_progress_counts_to_its_end(config: ModelConfig, traced: ir.Module) -> None:
    told: list[tuple[int, int]] = []
    measure(traced, Weights(config), Weights(config), TOKENS, lambda *done: told.append(done))
    assert told[-1] == (3 * len(TOKENS) * work_of(traced),) * 2
    assert told == sorted(told)


def test_the_larger_the_model_the_fewer_tokens() -> None:
    counts = [token_count(work, 10_000) for work in (10**6, 10**9, 10**11)]
    assert counts == [512, 100, 32]
    assert token_count(10**6, 40) == 40


def test_it_is_read_back_as_it_was_written(config: ModelConfig, traced: ir.Module) -> None:
    found = measure(traced, Weights(config), Weights(config, ("model.",)), TOKENS)
    facts = found.to_json()
    assert parse_quality(facts).to_json() == facts
    assert parse_quality(facts).mean_kl == pytest.approx(found.mean_kl, rel=1e-5)
