"""Op by op against the meaning that the IR gives them, computed in float64."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest

from arkinfer.artifact import open_artifact
from arkinfer.errors import UnsupportedError
from arkinfer.ir import CacheType, Value, dim
from arkinfer.packing import parse_scheme

TOKENS = np.array([3, 0, 15, 3, 7, 1, 9], np.int64)

SCHEMES = [
    f"int{bits}-{group}{offset}"
    for bits in (2, 4, 8)
    for group in ("g32", "g64", "g128", "row")
    for offset in ("", "-asym")
]


def table(width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((16, width), dtype=np.float32)


def check(module, leaves, build, load, oracle, bound=1e-5):
    """All rows at once and one token at a time."""
    exact = oracle(module, leaves, TOKENS, np.float64)
    executable = load(build(module, leaves))
    state = executable.new_state(len(TOKENS))
    at_once = state.step(TOKENS, rows="all").logits
    assert at_once.dtype == np.float32
    state.truncate(0)
    one_by_one = np.concatenate([state.step(TOKENS[i : i + 1]).logits for i in range(len(TOKENS))])
    for found in (at_once, one_by_one):
        assert found.shape == exact.shape
        assert (np.abs(found - exact) <= bound).all(), np.abs(found - exact).max()
    return exact, at_once


@pytest.mark.parametrize("name", SCHEMES)
def test_quantized_linear_of_every_scheme(name, scratch, matrix, build, load, oracle):
    scheme, columns, rows = parse_scheme(name), 384, 37
    s = scratch(table(columns))
    weight = matrix(scheme, (rows, columns), seed=1)
    module = s.finish(s.multiply(s.quantized("w", weight)))
    # Activations become int8 by block: each is off by half a step of its block's largest / 127.
    x, blocks = table(columns)[TOKENS].astype(np.float64), min(128, scheme.group_size(columns))
    largest = np.abs(x).reshape(len(x), -1, blocks).max(-1).repeat(blocks, axis=1)
    bound = 0.505 / 127 * largest @ np.abs(weight.dequantize().astype(np.float64)).T + 1e-5
    exact, found = check(module, s.leaves, build, load, oracle, bound)
    assert np.std(found - exact) < 0.015 * np.std(exact)


EXACT = [*SCHEMES, "int4-g64-actorder", "int2-g32-asym-actorder", "int8-g16-asym", "int2-g16"]


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("rows", [37, 128])
def test_quantized_linear_with_activations_as_they_are(
    name, rows, scratch, matrix, build, load, oracle
):
    """2 bits run as 4, and 8 as two halves; with 128 rows 2 bits would be looked up."""
    s = scratch(table(384) * np.float32(3))
    weight = matrix(parse_scheme(name), (rows, 384), seed=1)
    module = s.finish(s.multiply(s.quantized("w", weight), "f32"))
    exact, found = check(module, s.leaves, build, load, oracle, np.inf)
    assert np.abs(found - exact).max() < 3e-6 * np.abs(exact).max()


def test_both_kinds_of_activations_in_one_graph(scratch, matrix, build, load, oracle):
    """Two products with activations as they are share what they make of their input."""
    s = scratch(table(256))
    found = [matrix(parse_scheme("int8-g64-asym"), (64, 256), seed=seed) for seed in range(3)]
    weights = [s.quantized(f"w{i}", weight) for i, weight in enumerate(found)]
    parts = [s.multiply(w, kind) for w, kind in zip(weights, ("f32", "any", "f32"), strict=True)]
    total = s.b.add("nn.add", s.b.add("nn.add", *parts[:2], scale=1.0), parts[2], scale=1.0)
    path = build(s.finish(total), s.leaves)
    with open_artifact(path) as artifact:
        section = artifact.sections["onnxruntime"]
        graph = onnx.load_from_string(artifact.read(section.config["model"])).graph
    ops = [node.op_type for node in graph.node]
    assert (ops.count("MatMulNBits"), ops.count("ReduceSum")) == (3, 1)
    levels = [a.i for n in graph.node for a in n.attribute if a.name == "accuracy_level"]
    assert levels == [1, 4, 1]


@pytest.mark.parametrize("name", [name for name in SCHEMES if name.startswith("int2")])
@pytest.mark.parametrize("columns", [384, 512])
def test_two_bits_looked_up(name, columns, scratch, matrix, build, load, oracle):
    """Rows in units of 128. The sums of four activations are rounded to int8, too."""
    s = scratch(table(columns))
    weight = matrix(parse_scheme(name), (256, columns), seed=6)
    module = s.finish(s.multiply(s.quantized("w", weight)))
    exact, found = check(module, s.leaves, build, load, oracle, np.inf)
    assert np.std(found - exact) < 0.015 * np.std(exact)
    assert np.abs(found - exact).max() < 0.06 * np.std(exact)


def test_rows_with_a_scale_each_share_the_blocks_scales(scratch, matrix, build, load, oracle):
    """Two matrices of a shape: ones for the blocks once, and a factor for every row of each."""
    s = scratch(table(512))
    found = [matrix(parse_scheme("int2-row"), (128, 512), seed=seed) for seed in range(2)]
    weights = [s.quantized(f"w{i}", weight) for i, weight in enumerate(found)]
    parts = [s.multiply(weight) for weight in weights]
    path = build(s.finish(s.b.add("nn.add", *parts, scale=1.0)), s.leaves)
    with open_artifact(path) as artifact:
        entries = artifact.sections["onnxruntime"].config["initializers"]
    listed = {entry["name"]: entry["dims"] for entry in entries}
    assert listed["ones.128x2"] == [128, 2]
    assert listed["w0.factors"] == listed["w1.factors"] == [128]
    assert listed["w0.codes"] == [128, 2, 64]
    assert not any(name.endswith(".scale") for name in listed)


@pytest.mark.parametrize("columns", [32, 96, 1056])
def test_quantized_linear_of_odd_sizes(columns, scratch, matrix, build, load, oracle):
    """Groups of 96 become blocks of 32, and one row has an odd number of zero points."""
    s = scratch(table(columns))
    weight = matrix(parse_scheme("int4-row-asym"), (17, columns), seed=2)
    module = s.finish(s.multiply(s.quantized("w", weight)))
    scale = float(np.abs(weight.dequantize()).sum(axis=1).max()) * 4 / 127
    check(module, s.leaves, build, load, oracle, scale)


def test_quantized_linear_with_reordered_inputs(scratch, matrix, build, load, oracle):
    s = scratch(table(256))
    weight = matrix(parse_scheme("int4-g64-actorder"), (24, 256), seed=3)
    module = s.finish(s.multiply(s.quantized("w", weight)))
    exact, found = check(module, s.leaves, build, load, oracle, np.inf)
    assert np.std(found - exact) < 0.015 * np.std(exact)


@pytest.mark.parametrize("name", SCHEMES)
def test_quantized_embedding_is_exact(name, scratch, matrix, build, load, oracle):
    s = scratch(table(8))
    columns = 384
    weight = s.quantized("q", matrix(parse_scheme(name), (16, columns), seed=4))
    module = s.finish(s.b.add("quant.embedding", s.tokens, weight, scale=12.5))
    check(module, s.leaves, build, load, oracle, 2e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_dense_linear_and_embedding(dtype, scratch, build, load, oracle):
    s = scratch(table(48).astype(dtype))
    weight = np.random.default_rng(5).standard_normal((19, 48)).astype(dtype)
    module = s.finish(s.b.add("nn.linear", s.x, s.dense("w", weight)))
    check(module, s.leaves, build, load, oracle, 3e-5)


def test_embedding_scale(scratch, build, load, oracle):
    s = scratch(table(48))
    again = s.b.add("nn.embedding", s.tokens, s.module.weights["table"], scale=-3.5)
    check(s.finish(again), s.leaves, build, load, oracle)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_norm_alone_and_after_an_addition(dtype, scratch, build, load, oracle):
    s = scratch(table(48) * 1e-3)
    weights = np.random.default_rng(6).uniform(0.5, 2, (3, 48)).astype(dtype)
    first = s.b.add("nn.rms_norm", s.x, s.dense("n0", weights[0]), eps=1e-5)
    total = s.b.add("nn.add", s.x, first, scale=1.0)
    second = s.b.add("nn.rms_norm", total, s.dense("n1", weights[1]), eps=1e-6)
    again = s.b.add("nn.add", total, second, scale=0.25)
    last = s.b.add("nn.rms_norm", again, s.dense("n2", weights[2]), eps=1e-2)
    module = s.finish(s.b.add("nn.add", last, again, scale=1.0))
    check(module, s.leaves, build, load, oracle)


def test_silu_of_large_and_small_numbers(scratch, build, load, oracle):
    s = scratch(np.linspace(-120, 90, 16 * 40, dtype=np.float32).reshape(16, 40))
    module = s.finish(s.b.add("nn.silu_mul", s.x, s.x))
    check(module, s.leaves, build, load, oracle, 1e-3)  # of numbers up to 8,100


def attention(s, *, heads, kv, size, rotary, packed):
    """An attention over a random product of the table."""
    rng = np.random.default_rng(8)
    b, width = s.b, (heads, kv, kv)
    caches = [Value(CacheType("f32", (dim("S"), kv, size)), name) for name in ("k0", "v0")]
    total = sum(width) * size
    stacked = rng.standard_normal((total, 48), dtype=np.float32) / np.float32(7)
    if packed:
        joined = b.add("nn.linear", s.x, s.dense("qkv", stacked))
        split = b.add("tensor.reshape", joined, shape=(dim("T"), sum(width), size))
        starts = np.cumsum((0, *width))
        q, k, v = (
            b.add("tensor.slice", split, axis=1, start=int(a), stop=int(o))
            for a, o in itertools.pairwise(starts)
        )
    else:
        ends = np.cumsum(width)[:-1] * size
        q, k, v = (
            b.add(
                "tensor.reshape",
                b.add("nn.linear", s.x, s.dense(name, np.ascontiguousarray(part))),
                shape=(dim("T"), n, size),
            )
            for name, part, n in zip("qkv", np.split(stacked, ends), width, strict=True)
        )
    if rotary:
        positions = b.add("tensor.arange", start=dim("S"), stop=dim("S + T"))
        angles = s.dense("inv_freq", rng.uniform(0.01, 2, size // 2).astype(np.float32))
        q = b.add("nn.rope", q, positions, angles, factor=1.1)
        k = b.add("nn.rope", k, positions, angles, factor=1.1)
    new = [b.add("cache.append", old, rows) for old, rows in zip(caches, (k, v), strict=True)]
    mixed = b.add("attn.dense", q, *new, scale=0.31)
    result = b.add("tensor.reshape", mixed, shape=(dim("T"), heads * size))
    return s.finish(result, caches, new)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("rotary", [True, False])
@pytest.mark.parametrize(("heads", "kv", "size"), [(1, 1, 16), (6, 2, 48), (16, 1, 64), (4, 4, 96)])
def test_attention(heads, kv, size, rotary, packed, scratch, build, load, oracle):
    s = scratch(table(48))
    module = attention(s, heads=heads, kv=kv, size=size, rotary=rotary, packed=packed)
    check(module, s.leaves, build, load, oracle, 2e-5)


def test_rotary_tables_are_made_once_when_loaded(scratch, build, load, tmp_path, monkeypatch):
    """Neither in the file nor at every step."""
    s = scratch(table(48))
    path = build(attention(s, heads=4, kv=2, size=16, rotary=True, packed=True), s.leaves)
    session = onnxruntime.InferenceSession

    def written(model, options, **rest):
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        return session(model, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", written)
    load(path)
    nodes = onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph.node
    assert {node.op_type for node in nodes} & {"Cos", "Sin", "GroupQueryAttention"} == {
        "GroupQueryAttention"
    }


def test_what_is_needed_at_few_rows_is_computed_there(scratch, build, load, oracle):
    """A value that both the wanted rows and others read is still computed for all."""
    s = scratch(table(48))
    square = np.random.default_rng(9).standard_normal((48, 48), dtype=np.float32) / 7
    weight = s.dense("w", square.astype(np.float32))
    wide = s.b.add("nn.linear", s.x, weight)
    narrow = s.b.add("nn.add", wide, s.b.add("nn.silu_mul", wide, s.x), scale=1.0)
    check(s.finish(narrow), s.leaves, build, load, oracle, 2e-5)


def test_an_op_outside_of_its_pattern_is_refused_by_its_path(scratch, build):
    s = scratch(table(48))
    cut = s.b.add("tensor.slice", s.x, axis=1, start=0, stop=8)
    module = s.finish(s.b.add("nn.silu_mul", cut, cut))
    with pytest.raises(UnsupportedError) as caught:
        build(module, s.leaves)
    assert str(caught.value) == (
        "The ONNX Runtime backend cannot place tensor.slice at here. "
        "its result is used outside of an attention. Choose another backend for this model."
    )
