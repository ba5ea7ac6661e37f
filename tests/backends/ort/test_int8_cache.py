"""Caches in int8: bound in place, a quarter of the memory, and the interpreter's numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from arkinfer import ir
from arkinfer.artifact import open_artifact
from arkinfer.compiler.kv_scales import cache_scales
from arkinfer.compiler.weights import WeightStore
from arkinfer.errors import ResourceError
from arkinfer.models.config import parse_config
from arkinfer.passes import pass_named
from arkinfer.testing import preset
from arkinfer.testing.dense import dense_module
from arkinfer_ort import state as states

CONTEXT, CHUNK = 96, 16
SHAPES = {
    "group 4": {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32},
    "group 1": {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 64},
    "group 16": {"num_attention_heads": 16, "num_key_value_heads": 1, "head_dim": 16},
    "head 128": {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 128},
}


class WithScales:
    """A config's leaves, and scales calibrated on some tokens."""

    def __init__(self, plain, leaves):
        found = cache_scales(plain, WeightStore(plain.weights, leaves), list(range(3, 80, 2)))
        self.scales = {f"cache_scales.{name}": scale for name, scale in found.items()}
        self.leaves = leaves

    def rows(self, name, start, stop):
        if name in self.scales:
            return self.scales[name][start:stop]
        return self.leaves.rows(name, start, stop)


@pytest.fixture(params=SHAPES)
def model(request, leaves_of):
    """(module with int8 caches, its leaves)."""
    shape = parse_config(
        preset("tiny", num_hidden_layers=2, rope_scaling=None, **SHAPES[request.param])
    )
    shape = dataclasses.replace(shape, residual_scale=1.0)
    module, plain = (dense_module(shape, context=CONTEXT, chunk=CHUNK, dtype="bf16") for _ in "ab")
    pass_named("quantize-cache").run(module)
    return module, WithScales(plain, leaves_of(shape, CONTEXT))


def interpreted(module, leaves, tokens):
    step = module.functions["step"]
    inputs = {"tokens": tokens, "rows": np.arange(len(tokens))}
    for value in step.inputs:
        if isinstance(value.type, ir.CacheType):
            inputs[value.name] = np.zeros((0, *value.type.shape[1:]), np.int8)
    return ir.run_function(step, inputs, WeightStore(module.weights, leaves))


def feed(state, tokens, *sizes):
    parts, done = [], 0
    while done < len(tokens):
        size = sizes[min(len(parts), len(sizes) - 1)]
        parts.append(state.step(tokens[done : done + size], rows="all").logits)
        done += size
    return np.concatenate(parts)


def near(found, expected):
    """A value on a boundary between two codes may fall on either side: one code's worth."""
    assert found.shape == expected.shape
    error = np.abs(found - expected) / expected.std()
    assert np.quantile(error, 0.9) < 2e-3
    assert error.max() < 2e-2


@pytest.mark.parametrize("sizes", [(16,), (1,), (16, 1, 3, 9), (7,)])
def test_logits_and_codes_are_the_interpreters(model, sizes, build, load):
    module, leaves = model
    tokens = np.random.default_rng(0).integers(0, 512, 40)
    expected = interpreted(module, leaves, tokens)
    state = load(build(module, leaves)).new_state(64)
    near(feed(state, tokens, *sizes), expected["logits"])
    for name, codes in expected.items():
        if name == "logits":
            continue
        kept = state._caches[name]
        assert kept.dtype == np.int8
        difference = kept[0, :, :40].transpose(1, 0, 2).astype(int) - codes
        assert np.abs(difference).max() <= 1
        assert (difference != 0).mean() < 0.01
        assert not kept[0, :, 40:].any()  # nothing is written where no token stands


def test_truncating_and_going_on(model, build, load):
    module, leaves = model
    tokens, other = (np.random.default_rng(seed).integers(0, 512, 40) for seed in (1, 2))
    expected = interpreted(module, leaves, tokens)["logits"]
    state = load(build(module, leaves)).new_state(CONTEXT)
    feed(state, np.concatenate([tokens[:10], other]), 16)
    for length in (10, 3, 0):
        state.truncate(length)
        near(feed(state, tokens[length:], 5, 1, 16), expected[length:])


def test_several_states(model, build, load):
    module, leaves = model
    executable = load(build(module, leaves))
    sequences = [np.random.default_rng(seed).integers(0, 512, 24) for seed in (3, 4, 5)]
    running = [executable.new_state(capacity) for capacity in (24, 96, 31)]
    parts = [[], [], []]
    for start in range(0, 24, 6):
        for index, state in enumerate(running):
            parts[index].append(feed(state, sequences[index][start : start + 6], 6 - index))
    for tokens, found in zip(sequences, parts, strict=True):
        near(np.concatenate(found), interpreted(module, leaves, tokens)["logits"])


def test_a_quarter_of_the_memory(model, build, load):
    module, leaves = model
    plain = ir.parse_module(ir.print_module(module))
    step = plain.functions["step"]
    for node in step.nodes:
        node.operands = [
            o
            for o in node.operands
            if not (isinstance(o, ir.Weight) and o.name.startswith("cache_scales."))
        ]
    for value in [*step.inputs, *(r for node in step.nodes for r in node.results)]:
        if isinstance(value.type, ir.CacheType):
            value.type = ir.CacheType("f32", value.type.shape)
    ir.verify_module(plain)
    sizes = [
        sum(a.nbytes for a in load(build(each, leaves, f"{i}.ark")).new_state(64)._caches.values())
        for i, each in enumerate((plain, module))
    ]
    assert sizes[0] == 4 * sizes[1] > 0


def test_the_artifact_requires_the_first_version_that_can(model, build):
    module, leaves = model
    with open_artifact(build(module, leaves)) as artifact:
        section = artifact.sections["onnxruntime"]
    assert section.requires == {"onnxruntime": ">=1.27"}
    assert {cache["dtype"] for cache in section.config["caches"]} == {"int8"}


def test_the_same_bytes_again(model, build):
    module, leaves = model
    once, again = (build(module, leaves, f"{name}.ark").read_bytes() for name in "ab")
    assert once == again


def test_no_memory_says_how_much_was_wanted(model, build, load, monkeypatch):
    module, leaves = model
    executable = load(build(module, leaves))

    def refuse(size):
        raise MemoryError

    monkeypatch.setattr(states, "_pages", refuse)
    wanted = sum(64 * cache.heads * cache.size for cache in executable.caches)
    with pytest.raises(ResourceError, match=f"Its caches need {wanted:,} bytes"):
        executable.new_state(64)
