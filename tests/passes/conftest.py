"""Traced modules, and running them with the weights of a seeded checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from arkinfer import ir
from arkinfer.compiler.weights import WeightStore
from arkinfer.frontend.leaves import LeafSource
from arkinfer.frontend.trace import trace
from arkinfer.ir import Module, Weight
from arkinfer.models.config import ModelConfig
from arkinfer.packing import QuantizedTensor
from arkinfer.testing.torch_model import RandomCheckpoint

CONTEXT = 64

Outputs = dict[str, Any]
Execute = Callable[..., Outputs]


@lru_cache(maxsize=64)
def _traced(config: ModelConfig) -> str:
    return ir.print_module(trace(config, CONTEXT))


@pytest.fixture(scope="session")
def traced() -> Callable[[ModelConfig], Module]:
    """A fresh copy of what the front end makes of a config, for a context of 64 tokens."""
    return lambda config: ir.parse_module(_traced(config))


class Approximate:
    """A store that gives, for every weight, what `approximate` stores in its place."""

    def __init__(self, store: WeightStore, approximate: Mapping[str, Weight]) -> None:
        self._store = store
        self._instead = {
            w.source.inputs[0]: w
            for w in approximate.values()
            if w.source and w.source.rule in ("rtn", "cast")
        }

    def load(self, weight: Weight) -> Any:
        found = self._store.load(self._instead.get(weight.name, weight))
        return found.dequantize() if isinstance(found, QuantizedTensor) else found


@pytest.fixture(scope="session")
def execute() -> Execute:
    """execute(module, config, fresh, seen, approximate=…): the outputs of its step by name.

    Weights and inputs follow from config, `fresh` and `seen` alone. With `approximate`, the
    weights of a later module, those are taken as they are quantized or stored there.
    """

    def run(
        module: Module,
        config: ModelConfig,
        fresh: int,
        seen: int,
        approximate: Mapping[str, Weight] | None = None,
    ) -> Outputs:
        step = module.functions["step"]
        leaves = LeafSource(RandomCheckpoint(config), config, CONTEXT)
        store: Any = WeightStore({**(approximate or {}), **module.weights}, leaves)
        if approximate is not None:
            store = Approximate(store, approximate)
        lengths = {"T": fresh, "S": seen, "R": 2}
        rng = np.random.default_rng([fresh, seen])
        inputs = ir.random_inputs(step, lengths, rng, high=config.vocab_size)
        inputs["rows"] = inputs["rows"] % fresh
        return ir.run_function(step, inputs, store)

    return run
