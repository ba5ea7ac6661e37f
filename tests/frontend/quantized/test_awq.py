"""AutoAWQ's GEMM layout, against its text with loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arkinfer.errors import CheckpointError, UnsupportedError
from tests.frontend.quantized.stored import SCALES, one, scales, words

Array = Any

COLUMN_OF_FIELD = (0, 2, 4, 6, 1, 3, 5, 7)


def field(word: int, index: int) -> int:
    return (word >> (4 * index)) & 15


def oracle(t: dict[str, Array], shape: tuple[int, int]) -> Array:
    rows, columns = shape
    size = columns // len(t["scales"])
    dense = np.empty(shape, np.float32)
    for k in range(columns):
        g = k // size
        for word in range(rows // 8):
            for index, column in enumerate(COLUMN_OF_FIELD):
                n = 8 * word + column
                code = field(int(t["qweight"][k, word]), index)
                zero = field(int(t["qzeros"][g, word]), index)
                dense[n, k] = np.float32(t["scales"][g, n]) * np.float32(code - zero)
    return dense


def made(
    rng: np.random.Generator, shape: tuple[int, int], groups: int, dtype: Any = np.float16
) -> dict[str, Array]:
    rows, columns = shape
    return {
        "qweight": words(rng, columns, rows // 8),
        "qzeros": words(rng, groups, rows // 8),
        "scales": scales(rng, dtype, groups, rows),
    }


@settings(max_examples=40)
@given(
    st.integers(1, 6),
    st.integers(1, 4),
    st.sampled_from([2, 8, 32]),
    st.booleans(),
    st.sampled_from(SCALES),
    st.integers(0, 2**32),
)
def test_every_weight_is_what_the_layout_says(
    eighths: int, groups: int, size: int, symmetric: bool, dtype: Any, seed: int
) -> None:
    shape = 8 * eighths, groups * size
    t = made(np.random.default_rng(seed), shape, groups, dtype)
    if symmetric:
        t["qzeros"][:] = np.uint32(0x88888888).view(np.int32)
    stored = one(t, shape, quant_method="awq", bits=4, version="gemm")
    matrix = stored.only()
    assert matrix.scheme.offset == ("none" if symmetric else "zero")
    expected = oracle(t, shape)
    np.testing.assert_array_equal(stored.dense(matrix), expected)
    np.testing.assert_array_equal(stored.dense(matrix, step=3), expected)
    assert matrix.rows(stored.read, 0, 1).scale.dtype == np.dtype(dtype)


def test_the_order_within_a_word():
    """The code that goes with each column of one word, written out."""
    t = {
        "qweight": np.full((8, 1), 0x76543210, np.int32),
        "qzeros": np.zeros((1, 1), np.int32),
        "scales": np.ones((1, 8), np.float16),
    }
    stored = one(t, (8, 8))
    assert stored.dense(stored.only())[:, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_other_versions_are_refused_by_name():
    t = made(np.random.default_rng(0), (16, 16), 2)
    with pytest.raises(UnsupportedError, match=r"AutoAWQ's version gemv\. .*GEMM is read"):
        one(t, (16, 16), quant_method="awq", version="gemv").find()
    gemv = t | {"scales": np.ones((32, 8), np.float16)}
    gemv["qweight"] = words(np.random.default_rng(0), 32, 8)  # [N, K / 8]
    with pytest.raises(UnsupportedError, match=r"qweight is int32 \[32, 8\].*shape \[32, 64\]"):
        one(gemv, (32, 64), quant_method="awq", version="gemv").find()


def test_what_cannot_be_read_is_refused_in_a_sentence():
    rng = np.random.default_rng(0)
    t = made(rng, (16, 96), 3)
    with pytest.raises(CheckpointError, match=r'"group_size": 48 .* have 32'):
        one(t, (16, 96), q_group_size=48, w_bit=4).find()
    with pytest.raises(CheckpointError, match=r'"bits": 8 .* have 4'):
        one(t, (16, 96), w_bit=8).find()
    with pytest.raises(UnsupportedError, match="3 groups for 96 inputs"):
        one(t, (16, 96), group_size=40).find()
    with pytest.raises(CheckpointError, match=r"qzeros is int32 \[2, 2\]"):
        one(t | {"qzeros": t["qzeros"][:2]}, (16, 96)).find()
    t["scales"][0, 0] = np.nan
    stored = one(t, (16, 96))
    with pytest.raises(CheckpointError, match=r"down_proj\.scales holds numbers that are not fin"):
        stored.dense(stored.only())
