"""Whole tiny models against the IR interpreter, in one call, token by token and in chunks."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from arkinfer.models.config import Rope, parse_config
from arkinfer.packing import parse_scheme
from arkinfer.testing import preset
from arkinfer.testing.dense import dense_module

LENGTH = 41
DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def config(*, heads=4, kv=1, size=64, tied=True, dtype="f32", **changes):
    scaling = preset("tiny")["rope_scaling"]
    factors = {"short_factor": np.linspace(1, 7, size // 2).tolist()}
    factors["long_factor"] = np.linspace(1, 50, size // 2).tolist()
    raw = preset(
        "tiny",
        num_attention_heads=heads,
        num_key_value_heads=kv,
        head_dim=size,
        tie_word_embeddings=tied,
        torch_dtype=DTYPES[dtype],
        vocab_size=97,
        rope_scaling={**scaling, **factors},
    )
    changes.setdefault("residual_scale", 1.0)  # as the pass rescale-residual makes it
    return dataclasses.replace(parse_config(raw), **changes)


def tokens():
    return np.random.default_rng(3).integers(0, 97, LENGTH)


def run_all_ways(executable):
    """Logits at all positions, in three ways."""
    ids = tokens()
    state = executable.new_state(LENGTH)
    ways = {"one call": state.step(ids, rows="all").logits}
    state.truncate(0)
    singles = [state.step(ids[i : i + 1]).logits for i in range(LENGTH)]
    ways["token by token"] = np.concatenate(singles)
    state = executable.new_state(LENGTH + 7)
    cuts = [0, 1, 6, 23, 24, LENGTH]
    chunks = [state.step(ids[a:o], rows="all").logits for a, o in itertools.pairwise(cuts)]
    ways["chunks"] = np.concatenate(chunks)
    return ways


@pytest.mark.parametrize(
    "facts",
    [
        {"heads": 4, "kv": 4},  # G = 1
        {"heads": 4, "kv": 2},
        {"heads": 8, "kv": 1, "size": 32, "tied": False},
        {"heads": 16, "kv": 1, "size": 16},
        {"heads": 2, "kv": 1, "size": 128, "tied": False},
        {"heads": 4, "kv": 2, "size": 96},  # not hidden / heads
        {"dtype": "bf16"},
        {"dtype": "f16", "tied": False},
        {"rope": Rope(theta=1e6)},
        {"residual_scale": 0.9899},  # runs, though slowly
    ],
    ids=str,
)
def test_unquantized_models_are_exact(facts, leaves_of, build, load, oracle):
    shape = config(**facts)
    module = dense_module(shape, context=64, chunk=48, dtype=facts.get("dtype", "f32"))
    leaves = leaves_of(shape, 64)
    expected = oracle(module, leaves, tokens())
    for way, found in run_all_ways(load(build(module, leaves))).items():
        assert np.abs(found - expected).max() < 2e-5, way


@pytest.mark.parametrize(
    ("linear", "embedding"),
    [
        ("int4-g128", "int4-g128"),
        ("int4-g32-asym", "int8-row"),
        ("int8-row", None),
        ("int2-row", "int4-g64"),
        (None, "int8-g64-asym"),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_quantized_models_are_close(linear, embedding, tied, leaves_of, build, load, oracle):
    shape = config(heads=8, kv=2, size=32, tied=tied, dtype="bf16")
    schemes = {
        "linear": parse_scheme(linear) if linear else None,
        "embedding": parse_scheme(embedding) if embedding else None,
    }
    module = dense_module(shape, context=64, chunk=48, dtype="bf16", **schemes)
    leaves = leaves_of(shape, 64)
    expected = oracle(module, leaves, tokens())
    for way, found in run_all_ways(load(build(module, leaves))).items():
        error = np.std(found - expected) / np.std(expected)
        assert error < 0.02, (way, error)


def test_two_builds_give_the_same_bytes(leaves_of, build):
    shape = config(dtype="bf16")
    for_both = {"context": 64, "linear": parse_scheme("int4-row"), "dtype": "bf16"}
    paths = [
        build(dense_module(shape, **for_both), leaves_of(shape, 64), name)
        for name in ("a.ark", "b.ark")
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()
