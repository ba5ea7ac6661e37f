"""compressed-tensors: packed and int8 weights, against the layout's text with loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arkinfer.errors import CheckpointError, UnsupportedError
from tests.frontend.quantized.stored import SCALES, bits_of, one, scales, words

Array = Any


def oracle(t: dict[str, Array], bits: int, shape: tuple[int, int], groups: int) -> Array:
    rows, columns = shape
    index = t.get("weight_g_idx", np.arange(columns) // (columns // groups))
    half = 1 << (bits - 1)
    dense = np.empty(shape, np.float32)
    for n in range(rows):
        for k in range(columns):
            g = int(index[k])
            if "weight_packed" in t:
                code = bits_of(t["weight_packed"][n], k, bits) - half
            else:
                code = int(t["weight"][n, k])
            zero = 0
            if "weight_zero_point" in t:
                stored = t["weight_zero_point"]
                packed = stored.dtype == np.int32
                zero = bits_of(stored[:, g], n, bits) - half if packed else int(stored[n, g])
            scale = t["weight_scale"]
            one_scale = scale.reshape(-1)[0] if scale.size == 1 else scale[n, g]
            dense[n, k] = np.float32(one_scale) * np.float32(code - zero)
    return dense


def config(bits: int, size: int | None) -> dict[str, Any]:
    weights = {"num_bits": bits, "group_size": size, "type": "int"}
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"weights": weights}},
    }


def packed(
    rng: np.random.Generator,
    bits: int,
    shape: tuple[int, int],
    groups: int,
    dtype: Any = np.float16,
) -> dict[str, Array]:
    rows, columns = shape
    return {
        "weight_packed": words(rng, rows, -(-columns * bits // 32)),
        "weight_scale": scales(rng, dtype, rows, groups),
        "weight_shape": np.array(shape, np.int64),
    }


@settings(max_examples=60)
@given(
    st.integers(2, 8),
    st.integers(1, 37),
    st.integers(1, 4),
    st.sampled_from([8, 16, 40]),
    st.sampled_from(["none", "packed", "plain", "constant"]),
    st.booleans(),
    st.sampled_from(SCALES),
    st.integers(0, 2**32),
)
def test_every_packed_weight_is_what_the_layout_says(
    bits: int,
    rows: int,
    groups: int,
    size: int,
    zeros: str,
    order: bool,
    dtype: Any,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    shape = rows, columns = rows, groups * size
    t = packed(rng, bits, shape, groups, dtype)
    half = 1 << (bits - 1)
    if zeros == "packed":
        t["weight_zero_point"] = words(rng, -(-rows * bits // 32), groups)
    elif zeros == "plain":
        t["weight_zero_point"] = rng.integers(-half, half, (rows, groups)).astype(np.int8)
    elif zeros == "constant":
        t["weight_zero_point"] = np.zeros((rows, groups), np.int8)
    if order:
        t["weight_g_idx"] = rng.permutation(np.arange(columns) // size).astype(np.int32)
    stored = one(t, shape, **config(bits, size))
    matrix = stored.only()
    if zeros in ("none", "constant"):
        assert matrix.scheme.offset == "none"
    expected = oracle(t, bits, shape, groups)
    np.testing.assert_array_equal(stored.dense(matrix), expected)
    np.testing.assert_array_equal(stored.dense(matrix, step=2), expected)
    assert matrix.rows(stored.read, 0, 1).scale.dtype == np.dtype(dtype)


@settings(max_examples=30)
@given(
    st.integers(1, 20),
    st.integers(1, 3),
    st.sampled_from(["none", "zero", "constant"]),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_every_int8_weight_is_what_the_layout_says(
    rows: int, groups: int, zeros: str, one_scale: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    groups = 1 if one_scale else groups
    shape = rows, groups * 24
    t = {
        "weight": rng.integers(-128, 128, shape).astype(np.int8),
        "weight_scale": scales(rng, np.float32, *((1,) if one_scale else (rows, groups))),
    }
    if zeros != "none" and not one_scale:
        low, high = (-128, 128) if zeros == "zero" else (0, 1)
        t["weight_zero_point"] = rng.integers(low, high, (rows, groups)).astype(np.int8)
    stored = one(t, shape, **config(8, 24 if groups > 1 else None))
    matrix = stored.only()
    assert matrix.scheme.name.startswith("int8-g24" if groups > 1 else "int8-row")
    expected = oracle(t, 8, shape, groups)
    np.testing.assert_array_equal(stored.dense(matrix), expected)
    np.testing.assert_array_equal(stored.dense(matrix, step=3), expected)


def test_an_order_that_was_prepared_and_not_used_is_none():
    t = packed(np.random.default_rng(0), 4, (8, 64), 2)
    t["weight_g_idx"] = np.full(64, -1, np.int32)
    assert not one(t, (8, 64)).only().scheme.act_order


def test_scales_of_activations_are_used_up():
    t = packed(np.random.default_rng(0), 4, (8, 64), 2)
    matrix = one(t | {"input_scale": np.ones(1, np.float32)}, (8, 64)).only()
    assert matrix.tensors[-1].endswith(".input_scale")


def test_what_cannot_be_read_is_refused_in_a_sentence():
    t = packed(np.random.default_rng(0), 4, (8, 96), 3)
    with pytest.raises(CheckpointError, match=r"weight_shape is \[8, 92\]\. .*needs \[8, 96\]"):
        one(t | {"weight_shape": np.array([8, 92])}, (8, 96)).find()
    with pytest.raises(CheckpointError, match=r"weight_scale is missing"):
        one({k: v for k, v in t.items() if k != "weight_scale"}, (8, 96)).find()
    with pytest.raises(CheckpointError, match=r'"bits": 8 .* have 4'):
        one(t, (8, 96), **config(8, 32)).find()
    with pytest.raises(CheckpointError, match=r"weight_zero_point is int8 \[8, 2\]"):
        one(t | {"weight_zero_point": np.zeros((8, 2), np.int8)}, (8, 96)).find()
    with pytest.raises(UnsupportedError, match="5 groups for 96 inputs"):
        one(t | {"weight_scale": np.ones((8, 5), np.float16)}, (8, 96)).find()
    with pytest.raises(UnsupportedError, match="the weights are rotated"):
        one(t, (8, 96), transform_config={"config_groups": {"v": {}}}).find()
    float8 = {"weight": np.zeros((8, 96), "float8_e4m3fn"), "weight_scale": np.ones((8, 1), "f4")}
    with pytest.raises(UnsupportedError, match=r"weight is float8_e4m3fn \[8, 96\]"):
        one(float8, (8, 96)).find()
    t["weight_scale"][5, 1] = np.inf
    stored = one(t, (8, 96))
    stored.only().rows(stored.read, 0, 5)
    with pytest.raises(CheckpointError, match=r"weight_scale holds numbers that are not finite"):
        stored.dense(stored.only())


def test_words_that_hold_whole_codes_only_are_refused():
    """As old versions packed 3, 5, 6 and 7 bits."""
    t = packed(np.random.default_rng(0), 3, (8, 96), 3)
    t["weight_packed"] = words(np.random.default_rng(0), 8, 10)
    with pytest.raises(UnsupportedError, match=r"weight_packed is int32 \[8, 10\]"):
        one(t, (8, 96)).find()
