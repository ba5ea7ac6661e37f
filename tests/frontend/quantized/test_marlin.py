"""Marlin: against CPM.cu's own way of writing it, step by step, for single and stacked matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arkinfer.errors import CheckpointError, UnsupportedError
from tests.frontend.quantized.stored import SCALES, Stored, one, scales

Array = Any


def order_in_a_run() -> list[int]:
    """Which of the 1,024 numbers of four tiles stands at each place."""
    order = []
    for thread in range(32):
        column = thread // 4
        own = []
        for block in (0, 1):
            first = 2 * (thread % 4)
            for row in (first, first + 1, first + 8, first + 9):
                own.append(16 * row + column + 8 * block)
        for tile in range(4):
            order += [own[place] + 256 * tile for place in (0, 2, 4, 6, 1, 3, 5, 7)]
    return order


def written(codes: Array, scale: Array) -> tuple[Array, Array]:
    """Codes [K, N] and scales [G, N] -> what is stored of them."""
    columns, rows = codes.shape
    tiles = [
        codes[k : k + 16, n : n + 16].reshape(-1)
        for k in range(0, columns, 16)
        for n in range(0, rows, 16)
    ]
    flat = np.concatenate(tiles)
    order = order_in_a_run()
    moved = [flat[run + place] for run in range(0, flat.size, 1024) for place in order]
    packed = [
        sum(int(code) << (4 * i) for i, code in enumerate(moved[first : first + 8]))
        for first in range(0, len(moved), 8)
    ]
    qweight = np.array(packed, np.uint32).view(np.int32).reshape(columns // 16, 2 * rows)
    if len(scale) > 1:
        places = [i + 8 * j for i in range(8) for j in range(8)]
    else:
        places = [2 * i + j for i in range(4) for j in (0, 1, 8, 9, 16, 17, 24, 25)]
    moved_scales = scale.reshape(-1, len(places))[:, places].reshape(scale.shape)
    return qweight, moved_scales


def made(
    rng: np.random.Generator, shape: tuple[int, int], groups: int, dtype: Any = np.float16
) -> tuple[Array, Array, Array]:
    """Stored codes, stored scales, and the matrix [N, K]."""
    rows, columns = shape
    codes = rng.integers(0, 16, (columns, rows))
    scale = scales(rng, dtype, groups, rows)
    by_input = np.repeat(scale.astype(np.float32), columns // groups, axis=0)
    dense = (by_input * (codes - 8).astype(np.float32)).T
    return (*written(codes, scale), dense)


@settings(max_examples=20)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([16, 32, 128]),
    st.sampled_from(SCALES),
    st.sampled_from([("qweight", "scales"), ("B", "s")]),
    st.integers(0, 2**32),
)
def test_every_weight_is_what_was_written(
    runs: int, groups: int, size: int, dtype: Any, names: tuple[str, str], seed: int
) -> None:
    shape = 64 * runs, groups * size
    codes, scale, dense = made(np.random.default_rng(seed), shape, groups, dtype)
    stored = one({names[0]: codes, names[1]: scale}, shape, bits=4, sym=True)
    matrix = stored.only()
    assert matrix.scheme.name in (f"int4-g{size}", "int4-row")
    np.testing.assert_array_equal(stored.dense(matrix), dense)
    np.testing.assert_array_equal(stored.dense(matrix, step=5), dense)


def test_stacked_matrices_are_taken_apart():
    rng = np.random.default_rng(1)
    layer = "model.layers.0"
    qkv = made(rng, (128, 64), 2)
    gate_up = made(rng, (192, 64), 2)
    out = made(rng, (64, 64), 2)
    stored = Stored(
        {
            f"{layer}.self_attn.qkv_proj.qweight": qkv[0],
            f"{layer}.self_attn.qkv_proj.scales": qkv[1],
            f"{layer}.mlp.gate_up_proj.qweight": gate_up[0],
            f"{layer}.mlp.gate_up_proj.scales": gate_up[1],
            f"{layer}.self_attn.o_proj.qweight": out[0],
            f"{layer}.self_attn.o_proj.scales": out[1],
        },
        {
            f"{layer}.self_attn.q_proj.weight": (64, 64),
            f"{layer}.self_attn.k_proj.weight": (32, 64),
            f"{layer}.self_attn.v_proj.weight": (32, 64),
            f"{layer}.self_attn.o_proj.weight": (64, 64),
            f"{layer}.mlp.gate_proj.weight": (96, 64),
            f"{layer}.mlp.up_proj.weight": (96, 64),
        },
        {"quant_method": "gptq", "checkpoint_format": "gptq", "bits": 4, "group_size": 32},
    )
    found = stored.find()
    assert found.keys() == stored.expected.keys()
    dense = [stored.dense(matrix, step=7) for matrix in found.values()]
    np.testing.assert_array_equal(np.concatenate(dense[:3]), qkv[2])
    np.testing.assert_array_equal(dense[3], out[2])
    np.testing.assert_array_equal(np.concatenate(dense[4:]), gate_up[2])
    assert found[f"{layer}.self_attn.v_proj.weight"].tensors == (
        f"{layer}.self_attn.qkv_proj.qweight",
        f"{layer}.self_attn.qkv_proj.scales",
    )


def test_what_cannot_be_read_is_refused_in_a_sentence():
    codes, scale, _ = made(np.random.default_rng(0), (64, 64), 2)
    with pytest.raises(CheckpointError, match=r"The tensor .*\.scales is missing"):
        one({"qweight": codes}, (64, 64)).find()
    with pytest.raises(CheckpointError, match=r'"bits": 8 .* have 4'):
        one({"qweight": codes, "scales": scale}, (64, 64), bits=8).find()
    with pytest.raises(UnsupportedError, match=r"qweight is int32 \[4, 128\].*\[72, 64\]"):
        one({"qweight": codes, "scales": scale}, (72, 64)).find()
    scale[1, 5] = np.inf
    stored = one({"qweight": codes, "scales": scale}, (64, 64))
    with pytest.raises(CheckpointError, match=r"scales holds numbers that are not finite"):
        stored.dense(stored.only())
