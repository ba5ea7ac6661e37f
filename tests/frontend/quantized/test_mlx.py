"""MLX's affine form, of linears and embedding, against its text with loops."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arkinfer.errors import CheckpointError, UnsupportedError
from tests.frontend.quantized.stored import MODULE, SCALES, Stored, bits_of, one, scales, words

Array = Any


def oracle(t: dict[str, Array], bits: int, shape: tuple[int, int]) -> Array:
    rows, columns = shape
    size = columns // t["scales"].shape[1]
    dense = np.empty(shape, np.float32)
    for n in range(rows):
        for k in range(columns):
            code = np.float32(bits_of(t["weight"][n], k, bits))
            scale, least = t["scales"][n, k // size], t["biases"][n, k // size]
            dense[n, k] = np.float32(scale) * code + np.float32(least)
    return dense


def made(
    rng: np.random.Generator,
    bits: int,
    shape: tuple[int, int],
    groups: int,
    dtypes: tuple[Any, Any] = (np.float16, np.float16),
) -> dict[str, Array]:
    rows, columns = shape
    return {
        "weight": words(rng, rows, columns * bits // 32).view(np.uint32),
        "scales": scales(rng, dtypes[0], rows, groups),
        "biases": scales(rng, dtypes[1], rows, groups),
    }


@settings(max_examples=60)
@given(
    st.sampled_from([2, 3, 4, 5, 6, 8]),
    st.integers(1, 20),
    st.integers(1, 3),
    st.sampled_from([32, 64]),
    st.sampled_from(SCALES),
    st.sampled_from(SCALES),
    st.integers(0, 2**32),
)
def test_every_weight_is_what_the_layout_says(
    bits: int, rows: int, groups: int, size: int, dtype: Any, least: Any, seed: int
) -> None:
    shape = rows, groups * size
    t = made(np.random.default_rng(seed), bits, shape, groups, (dtype, least))
    stored = one(t, shape, bits=bits, group_size=size)
    matrix = stored.only()
    assert matrix.scheme.name == f"int{bits}-g{size}-min"
    expected = oracle(t, bits, shape)
    np.testing.assert_array_equal(stored.dense(matrix), expected)
    np.testing.assert_array_equal(stored.dense(matrix, step=3), expected)
    mixed = np.dtype(dtype) != np.dtype(least)
    kept = np.dtype(np.float32 if mixed else dtype)
    assert matrix.rows(stored.read, 0, 1).scale.dtype == kept


def test_matrices_may_differ_and_be_left_alone():
    rng = np.random.default_rng(0)
    tensors = {f"{MODULE}.{p}": t for p, t in made(rng, 4, (8, 64), 1).items()}
    tensors |= {f"model.embed_tokens.{p}": t for p, t in made(rng, 6, (8, 64), 2).items()}
    tensors["lm_head.weight"] = np.zeros((8, 64), ml_dtypes.bfloat16)
    names = (f"{MODULE}.weight", "model.embed_tokens.weight", "lm_head.weight")
    facts = {
        "bits": 4, "group_size": 64, "model.embed_tokens": {"bits": 6, "group_size": 32}
    }  # fmt: skip
    found = Stored(tensors, dict.fromkeys(names, (8, 64)), facts).find()
    assert {name: m.scheme.name for name, m in found.items()} == {
        f"{MODULE}.weight": "int4-g64-min",
        "model.embed_tokens.weight": "int6-g32-min",
    }


def test_what_cannot_be_read_is_refused_in_a_sentence():
    t = made(np.random.default_rng(0), 4, (8, 96), 3)
    with pytest.raises(UnsupportedError, match=r"in MLX's mode mxfp4"):
        one(t, (8, 96), mode="mxfp4", bits=4, group_size=32).find()
    with pytest.raises(CheckpointError, match=r"The tensor .*\.biases is missing"):
        one({k: v for k, v in t.items() if k != "biases"}, (8, 96)).find()
    with pytest.raises(CheckpointError, match=r'"bits": 8 .* have 4'):
        one(t, (8, 96), bits=8).find()
    with pytest.raises(CheckpointError, match=r"is uint32 \[8, 11\].*needs uint32 \[8, 12\]"):
        one(t | {"weight": t["weight"][:, :11]}, (8, 96)).find()
    five = np.ones((8, 5), np.float16)
    with pytest.raises(UnsupportedError, match="5 groups for 96 inputs"):
        one(t | {"scales": five, "biases": five}, (8, 96)).find()
    t["biases"][0, 0] = np.nan
    stored = one(t, (8, 96))
    with pytest.raises(CheckpointError, match=r"biases holds numbers that are not finite"):
        stored.dense(stored.only())
