"""The traced IR computes what the torch module computes, at lengths that it was not traced for."""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from arkinfer import ir
from arkinfer.errors import InternalError, UnsupportedError
from arkinfer.frontend.leaves import INV_FREQ, LeafSource
from arkinfer.frontend.trace import export, import_program, trace
from arkinfer.ir import Module, TensorType, Weight
from arkinfer.models.config import ModelConfig
from arkinfer.models.minicpm import CausalLM
from arkinfer.testing import FAMILY, family
from arkinfer.testing.torch_model import RandomCheckpoint, torch_model, torch_step

LENGTHS = [(1, 0), (1, 1), (2, 0), (9, 0), (1, 9), (4, 13), (20, 0), (17, 30)]
"""(T, S)."""


@functools.cache
def traced(name: str) -> Module:
    return trace(family(name), 64)


class Store:
    """The leaves of a module as the interpreter wants them."""

    def __init__(self, config: ModelConfig, context: int) -> None:
        self.leaves = LeafSource(RandomCheckpoint(config), config, context)

    def load(self, weight: Weight) -> Any:
        assert isinstance(weight.type, TensorType)
        rows = self.leaves.rows(weight.name)
        assert rows.shape == weight.type.shape
        assert rows.dtype == ir.DTYPES[weight.type.dtype]
        return rows


def step_both(
    config: ModelConfig, module: Module, model: CausalLM, context: int, fresh: int, seen: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng([fresh, seen])
    size = (seen, config.num_key_value_heads, config.head_dim)
    names = [f"{kind}{layer}" for layer in range(config.num_hidden_layers) for kind in "kv"]
    past = [rng.standard_normal(size, np.float32) for _ in names]
    tokens = rng.integers(0, config.vocab_size, fresh)
    rows = rng.integers(0, fresh, rng.integers(1, 4))
    inputs = {"tokens": tokens, "rows": rows, **dict(zip(names, past, strict=True))}
    ours = ir.run_function(module.functions["step"], inputs, Store(config, context))
    logits, present = torch_step(model, tokens, rows, past)
    return ours, {"logits": logits, **dict(zip(names, present, strict=True))}


@pytest.mark.parametrize("name", FAMILY)
def test_the_ir_computes_what_the_module_computes(name: str) -> None:
    config, context = family(name), 64
    module = traced(name)
    model = torch_model(config, RandomCheckpoint(config), context)
    for fresh, seen in LENGTHS:
        ours, theirs = step_both(config, module, model, context, fresh, seen)
        assert list(ours) == list(theirs)
        assert theirs["logits"].std() > 0.2
        for key, expected in theirs.items():
            assert ours[key].shape == expected.shape
            np.testing.assert_allclose(ours[key], expected, rtol=0, atol=1e-4, err_msg=key)
    assert ir.parse_module(ir.print_module(module)) == module


@pytest.mark.parametrize("context", [16, 17, 64])
def test_the_context_chooses_the_longrope_table(context: int) -> None:
    config = family("longrope-long")  # original length: 16
    module = trace(config, context)
    model = torch_model(config, RandomCheckpoint(config), context)
    ours, theirs = step_both(config, module, model, context, 5, 4)
    np.testing.assert_allclose(ours["logits"], theirs["logits"], rtol=0, atol=1e-4)
    other = torch_model(config, RandomCheckpoint(config), 64 if context == 16 else 16)
    _, wrong = step_both(config, module, other, context, 5, 4)
    assert np.abs(ours["logits"] - wrong["logits"]).max() > 1e-2


def test_the_interface_and_the_symbols() -> None:
    text = ir.print_module(traced("untied"))
    assert (
        "func @step(%tokens: i64[T], %rows: i64[R], %k0: f32[S, 2, 64], %v0: f32[S, 2, 64], "
        "%k1: f32[S, 2, 64], %v1: f32[S, 2, 64]) {"
    ) in text
    assert re.search(r"return logits = %\d+, k0 = %\d+, v0 = %\d+, k1 = %\d+, v1 = %\d+\n", text)
    assert "nn.linear" in text
    assert " : f32[R, 97]  // lm_head\n" in text
    assert "start = S, stop = S + T" in text


def test_weights_are_leaves_by_their_names() -> None:
    tied, untied = traced("tied"), traced("untied")
    assert set(tied.weights) == {*family("tied").tensor_shapes(), INV_FREQ}
    assert "lm_head.weight" not in tied.weights
    assert set(untied.weights) == {*family("untied").tensor_shapes(), INV_FREQ}
    assert str(tied.weights["model.norm.weight"].type) == "f32[128]"
    half = traced("bfloat16")
    assert str(half.weights["model.norm.weight"].type) == "bf16[128]"
    assert str(half.weights[INV_FREQ].type) == "f32[32]"


def test_every_node_says_where_it_came_from() -> None:
    nodes = list(traced("tied").nodes())
    places = {node.operands[1].name: node.loc for node in nodes if node.op == "nn.linear"}
    assert places.pop("model.embed_tokens.weight") == "lm_head"
    assert len(places) == 14
    assert all(f"{loc}.weight" == weight for weight, loc in places.items())
    found = {node.loc for node in nodes}
    for path in ("model.rotary", "model.layers.1.self_attn", "model.layers.0.input_layernorm"):
        assert path in found


def test_only_the_few_ops_that_passes_know() -> None:
    used = {node.op for node in traced("longrope-long").nodes()}
    assert used == {
        "nn.embedding",
        "nn.linear",
        *(f"tensor.{op}" for op in "add arange cast concat cos le mean mul neg reshape".split()),
        *(f"tensor.{op}" for op in "rsqrt scale sdpa shift silu sin slice take transpose".split()),
    }


def test_the_same_config_gives_the_same_text() -> None:
    assert ir.print_module(trace(family("tied"), 64)) == ir.print_module(traced("tied"))


class Changed(CausalLM):
    """The model with something of our own between head and logits."""

    def __init__(self, config: ModelConfig, change: Any) -> None:
        super().__init__(config, 64)
        self.extra = change

    def head(self, hidden: Tensor) -> Tensor:
        return self.extra(super().head(hidden))


def refused(change: Any) -> str:
    config = family("tied")
    with torch.device("meta"):
        model = Changed(config, change)
    with pytest.raises(UnsupportedError) as caught:
        import_program(export(model, config), config)
    return str(caught.value)


class Erf(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.erf(x)


class Dropped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(-1) + x.sum(-1)


def test_an_unknown_operation_is_named_with_its_place() -> None:
    text = refused(Erf())
    assert text.startswith("The torch operation aten.erf.default in extra cannot be imported.")
    assert "aten.linear.default" in text


def test_an_unknown_form_of_an_operation_is_named() -> None:
    text = refused(Dropped())
    assert text.startswith("The torch operation aten.mean.dim in extra cannot be imported.")
    assert "axes [-1], keepdim = False" in text
    assert "a bias" in refused(nn.Linear(97, 97, device="meta"))


class Fixed(CausalLM):
    """A module whose trace holds for one length only."""

    def forward(self, tokens: Tensor, rows: Tensor, past: Any) -> Any:
        logits, present = super().forward(tokens, rows, past)
        return logits + torch.zeros(3, 97, device="meta"), present


def test_a_length_that_became_a_constant_is_an_error() -> None:
    config = family("tied")
    with torch.device("meta"):
        model = Fixed(config, 64)
    with pytest.raises(InternalError, match="took the length of rows for the constant 3"):
        import_program(export(model, config), config)


@pytest.mark.slow
def test_a_deep_model_traces_in_time() -> None:
    import time

    from arkinfer.models.config import parse_config
    from arkinfer.testing import preset

    start = time.monotonic()
    module = trace(parse_config(preset("minicpm4-8b")), 32768)
    assert time.monotonic() - start < 60  # 10 s on two idle cores
    assert sum(node.op == "nn.linear" for node in module.nodes()) == 7 * 32 + 1
    assert ir.parse_module(ir.print_module(module)) == module
