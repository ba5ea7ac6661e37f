"""Running functions; and the hand-built module of a model means what our torch module does."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from arkinfer import ir
from arkinfer.errors import InternalError
from arkinfer.models.config import ModelConfig, parse_config
from arkinfer.models.minicpm import CausalLM
from arkinfer.testing import preset
from arkinfer.testing.dense import dense_module

Array = npt.NDArray[Any]

LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0 + i / 16 for i in range(16)],
    "long_factor": [1.0 + i for i in range(16)],
    "original_max_position_embeddings": 128,
}
SHAPES: dict[str, dict[str, Any]] = {
    "tied, group 4": {"head_dim": 32, "rope_scaling": LONG},
    "untied": {"head_dim": 32, "rope_scaling": LONG, "tie_word_embeddings": False},
    "group 1": {"head_dim": 32, "num_key_value_heads": 4, "rope_scaling": None},
    "group 8, one key head": {
        "head_dim": 32, "num_attention_heads": 8, "num_key_value_heads": 1, "rope_scaling": LONG,
    },
    "plain llama": {
        "architectures": ["LlamaForCausalLM"], "head_dim": 32, "rope_scaling": None,
        "tie_word_embeddings": False, "rope_theta": 5e5, "rms_norm_eps": 1e-6,
    },
    "attention factor given": {"head_dim": 32, "rope_scaling": {**LONG, "attention_factor": 1.3}},
}  # fmt: skip


class Checkpoint:
    """The parameters of a torch module under the names of the IR, fused where it asks for it."""

    def __init__(self, model: CausalLM, context: int) -> None:
        self.tensors = {name: p.detach().numpy() for name, p in model.named_parameters()}
        config = model.config
        self.tensors["model.rotary.inv_freq"] = config.rope.inv_freq(config.head_dim, context)

    def load(self, weight: ir.Weight) -> Array:
        if weight.source is None:
            return self.tensors[weight.name]
        parts = [self.tensors[name] for name in weight.source.inputs]
        if weight.source.rule == "concat":
            return np.concatenate(parts)
        assert weight.source.rule == "scale"
        return parts[0] * np.float32(dict(weight.source.attributes)["by"])


def small(**changes: Any) -> ModelConfig:
    shape = {"hidden_size": 96, "intermediate_size": 80, "vocab_size": 61, "torch_dtype": "float32"}
    return parse_config(preset("tiny", **shape, **changes))


def random_model(config: ModelConfig, context: int) -> CausalLM:
    model = CausalLM(config, context).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if "norm" in name else 0.2 * noise)
    return model


def run(module: ir.Module, store: ir.WeightStore, tokens: Array, dtype: Any = np.float64) -> Array:
    step = module.functions["step"]
    caches = {
        v.name: np.zeros((0, *v.type.shape[1:]))
        for v in step.inputs
        if isinstance(v.type, ir.CacheType)
    }
    inputs = {"tokens": tokens, "rows": np.arange(len(tokens)), **caches}
    return ir.run_function(step, inputs, store, dtype=dtype)["logits"]


@pytest.mark.parametrize("context", [100, 256])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_dense_module_means_the_torch_module(shape: str, context: int) -> None:
    config = small(**SHAPES[shape])
    model = random_model(config, context)
    tokens = np.random.default_rng(2).integers(0, config.vocab_size, 23)
    empty = torch.zeros(0, config.num_key_value_heads, config.head_dim)
    with torch.no_grad():
        past = [(empty, empty)] * config.num_hidden_layers
        expected, _ = model(torch.from_numpy(tokens), torch.arange(23), past)
    module = dense_module(config, context=context)
    logits = run(module, Checkpoint(model, context), tokens)
    assert logits.dtype == np.float64
    assert float(expected.std()) > 0.3
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)


def test_float32_is_close_to_float64_and_is_not_it() -> None:
    config = small(head_dim=32, rope_scaling=LONG)
    store = Checkpoint(random_model(config, 100), 100)
    module, tokens = dense_module(config), np.arange(40)
    wide, narrow = run(module, store, tokens), run(module, store, tokens, np.float32)
    error = np.abs(wide - narrow).max()
    assert narrow.dtype == np.float32
    assert 0 < error < 2e-5


def test_any_chunking_gives_the_same() -> None:
    config = small(head_dim=32, rope_scaling=LONG)
    store = Checkpoint(random_model(config, 100), 100)
    step = dense_module(config).functions["step"]
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, 12)
    whole = run(dense_module(config), store, tokens)
    state = {f"{x}{i}": np.zeros((0, 1, 32)) for i in range(2) for x in "kv"}
    done = 0
    for count in (1, 5, 1, 4, 1):
        part = tokens[done : done + count]
        inputs = {"tokens": part, "rows": np.arange(count), **state}
        outputs = ir.run_function(step, inputs, store, dtype=np.float64)
        np.testing.assert_allclose(outputs.pop("logits"), whole[done : done + count], atol=1e-12)
        state, done = outputs, done + count
    assert {cache.shape for cache in state.values()} == {(12, 1, 32)}


TWICE = ir.parse_module("""\
module
weight @w : bf16[3, 2]
func @f(%x: f32[T, 2], %i: i64[T], %c: cache<i8>[S, 1, 2]) {
  %0 = nn.linear(%x, @w) : f32[T, 3]  // first
  %1 = tensor.neg(%0) : f32[T, 3]  // second
  %2 = tensor.take(%1, %i) : f32[T, 3]  // third
  return y = %2, x = %x
}
""")


def test_inputs_are_checked() -> None:
    function, store = TWICE.functions["f"], ir.RandomWeights()
    given = ir.random_inputs(function, {"T": 4, "S": 3}, np.random.default_rng(0), high=4)
    ir.run_function(function, given, store)
    for change, why in (
        ({"x": given["x"][:, 0]}, "x is f32[T, 2], not of shape (4,)."),
        ({"x": given["x"][:, :1]}, "x is f32[T, 2] with {'T': 4, 'S': 3}, not of shape (4, 1)."),
        ({"i": given["i"][:3]}, "i is i64[T] with {'T': 4, 'S': 3}, not of shape (3,)."),
    ):
        with pytest.raises(InternalError) as error:
            ir.run_function(function, {**given, **change}, store)
        assert str(error.value) == why
    del given["i"]
    with pytest.raises(InternalError, match="@f needs the input i"):
        ir.run_function(function, given, store)


def test_random_inputs_and_weights_repeat() -> None:
    function = TWICE.functions["f"]
    draw = [
        ir.random_inputs(function, {"T": 4, "S": 3}, np.random.default_rng(s), high=4)
        for s in (1, 1, 2)
    ]
    assert {k: v.dtype for k, v in draw[0].items()} == {"x": "f4", "i": "i8", "c": "i1"}
    assert draw[0]["i"].max() < 4
    np.testing.assert_array_equal(draw[0]["x"], draw[1]["x"])
    assert not np.array_equal(draw[0]["x"], draw[2]["x"])
    weight = TWICE.weights["w"]
    loaded = ir.RandomWeights(5).load(weight)
    assert loaded.shape == (3, 2)
    assert loaded.dtype == ir.DTYPES["bf16"]
    np.testing.assert_array_equal(loaded, ir.RandomWeights(5).load(weight))
    assert not np.array_equal(loaded, ir.RandomWeights(6).load(weight))


def test_observers_see_every_node_and_caches_keep_their_dtype() -> None:
    function = TWICE.functions["f"]
    given = ir.random_inputs(function, {"T": 4, "S": 3}, np.random.default_rng(0), high=4)
    seen: list[tuple[str, Any]] = []
    outputs = ir.run_function(
        function,
        given,
        ir.RandomWeights(),
        dtype=np.float64,
        observe=lambda node, results: seen.append((node.loc, results[0].dtype)),
    )
    assert seen == [("first", np.float64), ("second", np.float64), ("third", np.float64)]
    np.testing.assert_array_equal(outputs["x"], given["x"])


def test_values_die_after_their_last_use() -> None:
    """A step over a long prompt must not keep every intermediate result."""
    import weakref

    config = small(head_dim=32, rope_scaling=None)
    store = Checkpoint(random_model(config, 100), 100)
    alive: list[weakref.ref[Array]] = []
    most = 0

    def observe(node: ir.Node, results: list[Array]) -> None:
        nonlocal most
        alive.extend(weakref.ref(r if r.base is None else r.base) for r in results)
        most = max(most, sum(ref() is not None for ref in alive))

    step = dense_module(config).functions["step"]
    caches = {f"{x}{i}": np.zeros((0, 1, 32), np.float32) for i in range(2) for x in "kv"}
    ir.run_function(
        step, {"tokens": np.arange(9), "rows": np.arange(1), **caches}, store, observe=observe
    )
    assert len(alive) > 40
    assert most < 16
