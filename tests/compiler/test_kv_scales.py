"""Scales of int8 caches: what they are made from, and what is not read for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from threadpoolctl import threadpool_limits

from arkinfer import ir
from arkinfer.compiler.kv_scales import MARGIN, cache_scales
from arkinfer.compiler.weights import WeightStore
from arkinfer.errors import UsageError
from arkinfer.models.config import ModelConfig, parse_config
from arkinfer.packing import QuantizedTensor, Scheme, parse_scheme
from arkinfer.testing import preset, random_rows
from arkinfer.testing.dense import dense_module

Array = npt.NDArray[Any]

CONFIG = parse_config(preset("tiny", vocab_size=300))
TOKENS = [1, 7, 250, 7, 31, 4, 4, 99, *range(50, 250, 3)]


class Leaves:
    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.angles = config.rope.inv_freq(config.head_dim, 64)

    def rows(self, name: str, start: int, stop: int) -> Array:
        if name == "model.rotary.inv_freq":
            return self.angles[start:stop]
        return random_rows(self.config, 5, name, start, stop)


class Watched(WeightStore):
    """A store that remembers what was read of each weight."""

    def __init__(self, module: ir.Module) -> None:
        super().__init__(module.weights, Leaves(CONFIG))
        self.read: dict[str, int] = {}

    def rows(self, weight: ir.Weight, start: int, stop: int) -> Array | QuantizedTensor:
        self.read[weight.name] = self.read.get(weight.name, 0) + stop - start
        return super().rows(weight, start, stop)


def module(scheme: Scheme | None = None) -> ir.Module:
    return dense_module(CONFIG, context=64, chunk=16, linear=scheme, embedding=scheme, dtype="bf16")


def caches(tokens: list[int], start: int = 0) -> dict[str, Array]:
    """What the model would keep of the tokens, if the first one stood at `start`."""
    plain = module()
    step = plain.functions["step"]
    inputs: dict[str, Array] = {"tokens": np.array(tokens), "rows": np.zeros(0, np.int64)}
    empty = np.zeros((0, CONFIG.num_key_value_heads, CONFIG.head_dim), np.float32)
    inputs |= {v.name: empty for v in step.inputs if isinstance(v.type, ir.CacheType)}
    for node in step.nodes:
        if node.op == "tensor.arange":
            node.attributes |= {
                key: ir.dim(f"{node.attributes[key]} + {start}") for key in ("start", "stop")
            }
    store = WeightStore(plain.weights, Leaves(CONFIG))
    outputs = ir.run_function(step, inputs, store, dtype=np.float64)
    return {name: rows for name, rows in outputs.items() if name != "logits"}


@pytest.fixture(scope="module")
def scales() -> dict[str, Array]:
    plain = module()
    return dict(cache_scales(plain, Watched(plain), TOKENS))


def test_values_have_a_scale_per_channel(scales: dict[str, Array]) -> None:
    for name, rows in caches(TOKENS).items():
        assert scales[name].dtype == np.float32
        assert scales[name].shape == rows.shape[1:]
        if name.startswith("v"):
            expected = np.abs(rows).max(axis=0) * MARGIN / 127
            np.testing.assert_allclose(scales[name], expected, rtol=1e-4)


@pytest.mark.parametrize("start", [0, 17, 2000, 31000])
def test_keys_fit_wherever_they_stand(scales: dict[str, Array], start: int) -> None:
    """Rotation moves a pair's length between its channels; the scale holds all of it."""
    largest = 0.0
    for name, rows in caches(TOKENS, start).items():
        if name == "k0":  # those of later layers depend on the distance alone, too
            largest = float(np.abs(rows / scales[name]).max())
            assert largest <= 127 / MARGIN * (1 + 1e-3)
    assert largest > 0.7 * 127 / MARGIN


@pytest.mark.parametrize("scheme", ["int4-g32", "int8-row-asym"])
def test_matrices_are_taken_as_they_were_before_quantization(
    scales: dict[str, Array], scheme: str
) -> None:
    quantized = module(parse_scheme(scheme))
    before = ir.print_module(quantized)
    store = Watched(quantized)
    found = cache_scales(quantized, store, TOKENS)
    assert ir.print_module(quantized) == before
    assert not any(scheme in name for name in store.read)
    for name, scale in scales.items():
        np.testing.assert_array_equal(found[name], scale)


def test_only_what_leads_to_the_caches_is_read() -> None:
    plain = module()
    store = Watched(plain)
    cache_scales(plain, store, TOKENS)
    assert store.read["model.embed_tokens.weight"] == len(set(TOKENS))  # it is the head, too
    assert "model.norm.weight.scaled" not in store.read
    last = CONFIG.num_hidden_layers - 1
    assert f"model.layers.{last}.self_attn.qkv_proj.weight" in store.read
    assert f"model.layers.{last}.self_attn.o_proj.weight" not in store.read
    assert f"model.layers.{last - 1}.mlp.down_proj.weight" in store.read


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_change_a_bit(scales: dict[str, Array], threads: int) -> None:
    """A product that several threads share is added up in another order."""
    plain = module()
    with threadpool_limits(limits=threads, user_api="blas"):
        found = cache_scales(plain, Watched(plain), TOKENS)
    for name, scale in scales.items():
        np.testing.assert_array_equal(found[name], scale)


def test_a_channel_that_is_always_zero_has_a_scale() -> None:
    class Zeros(Watched):
        def rows(self, weight: ir.Weight, start: int, stop: int) -> Array | QuantizedTensor:
            return super().rows(weight, start, stop) * 0

    plain = module()
    found = cache_scales(plain, Zeros(plain), TOKENS)
    assert all((scale > 0).all() for scale in found.values())


def test_no_tokens() -> None:
    plain = module()
    with pytest.raises(UsageError, match="There is no text to calibrate the int8 cache on"):
        cache_scales(plain, Watched(plain), [])
