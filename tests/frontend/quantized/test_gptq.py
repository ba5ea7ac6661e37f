"""GPTQ: against the layout's text, with loops; both forms of zero points, every kind of order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arkinfer.errors import CheckpointError, UnsupportedError
from tests.frontend.quantized.stored import MODULE, SCALES, Stored, bits_of, one, scales, words

Array = Any


def oracle(t: dict[str, Array], bits: int, shape: tuple[int, int], zero: Array) -> Array:
    """`zero` [G, N]: the true zero points."""
    rows, columns = shape
    dense = np.empty(shape, np.float32)
    for n in range(rows):
        for k in range(columns):
            g = int(t["g_idx"][k])
            code = bits_of(t["qweight"][:, n], k, bits)
            dense[n, k] = np.float32(t["scales"][g, n]) * np.float32(code - int(zero[g, n]))
    return dense


def pack_fields(fields: Array, bits: int) -> Array:
    """[G, N] -> int32 [G, ceil(N b / 32)]."""
    packed = []
    for row in fields.tolist():
        number = sum(int(value) << (i * bits) for i, value in enumerate(row))
        packed.append([(number >> (32 * i)) & 0xFFFFFFFF for i in range(-(-len(row) * bits // 32))])
    return np.array(packed, np.uint32).view(np.int32)


def made(
    rng: np.random.Generator,
    bits: int,
    shape: tuple[int, int],
    groups: int,
    fields: Array,
    *,
    order: bool = False,
    dtype: Any = np.float16,
) -> dict[str, Array]:
    rows, columns = shape
    index = np.arange(columns) // (columns // groups)
    return {
        "qweight": words(rng, -(-columns * bits // 32), rows),
        "qzeros": pack_fields(fields, bits),
        "scales": scales(rng, dtype, groups, rows),
        "g_idx": (rng.permutation(index) if order else index).astype(np.int32),
    }


@settings(max_examples=60)
@given(
    st.sampled_from([2, 3, 4, 8]),
    st.integers(1, 9),
    st.integers(1, 3),
    st.sampled_from([8, 16, 32]),
    st.sampled_from(["gptq", "gptq_v2", None]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(SCALES),
    st.integers(0, 2**32),
)
def test_every_weight_is_what_the_layout_says(
    bits: int,
    eighths: int,
    groups: int,
    size: int,
    form: str | None,
    symmetric: bool,
    order: bool,
    dtype: Any,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    shape = rows, columns = 8 * eighths, groups * size
    zero = np.full((groups, rows), 1 << (bits - 1))
    if not symmetric:
        zero = rng.integers(1, 1 << bits, zero.shape)
    t = made(rng, bits, shape, groups, zero - (form != "gptq_v2"), order=order, dtype=dtype)
    facts = {"sym": symmetric} | ({"checkpoint_format": form} if form else {})
    stored = one(t, shape, bits=bits, **facts)
    matrix = stored.only()
    assert matrix.scheme.bits == bits
    assert matrix.scheme.group in ((size, 0) if groups == 1 else (size,))
    assert matrix.scheme.offset == ("none" if (zero == 1 << (bits - 1)).all() else "zero")
    assert matrix.scheme.act_order == bool((t["g_idx"] != np.arange(columns) // size).any())
    expected = oracle(t, bits, shape, zero)
    np.testing.assert_array_equal(stored.dense(matrix), expected)
    np.testing.assert_array_equal(stored.dense(matrix, step=3), expected)
    assert matrix.rows(stored.read, 0, 1).scale.dtype == np.dtype(dtype)


@pytest.mark.parametrize("less", [0, 1])
def test_where_the_config_is_silent_constant_zeros_tell_the_form(less: int):
    rng = np.random.default_rng(0)
    t = made(rng, 4, (16, 64), 2, np.full((2, 16), 8 - less))
    assert one(t, (16, 64)).only().scheme.name == "int4-g32"


def test_silent_and_asymmetric_is_the_old_form():
    rng = np.random.default_rng(0)
    fields = np.tile([7, 8], (2, 8))
    t = made(rng, 4, (16, 64), 2, fields)
    stored = one(t, (16, 64))
    np.testing.assert_array_equal(stored.dense(stored.only()), oracle(t, 4, (16, 64), fields + 1))


def test_zeros_that_contradict_the_config_are_refused():
    t = made(np.random.default_rng(0), 4, (16, 64), 2, np.full((2, 16), 8))
    with pytest.raises(CheckpointError, match=r"symmetric gptq_v2 checkpoint\. Correct the con"):
        one(t, (16, 64), checkpoint_format="gptq", sym=True).find()


def test_an_unknown_form_of_zeros_is_refused():
    t = made(np.random.default_rng(0), 4, (16, 64), 2, np.full((2, 16), 8))
    with pytest.raises(UnsupportedError, match=r'"gptqv2".*Did you mean "gptq_v2"\?'):
        one(t, (16, 64), checkpoint_format="gptqv2").find()


def test_a_zero_of_0_in_the_old_form_wraps_around():
    """Each field for itself, as AutoGPTQ reads it."""
    fields = np.tile([15, 3], (2, 8))
    t = made(np.random.default_rng(0), 4, (16, 64), 2, fields)
    stored = one(t, (16, 64), checkpoint_format="gptq", sym=False)
    zero = np.tile([0, 4], (2, 8))
    np.testing.assert_array_equal(stored.dense(stored.only()), oracle(t, 4, (16, 64), zero))


@given(st.sampled_from([2, 4, 8]), st.integers(0, 2**32))
@settings(max_examples=20)
def test_gptqmodel_subtracts_from_whole_words_and_is_undone(bits: int, seed: int):
    rng = np.random.default_rng(seed)
    zero = rng.integers(0, 1 << bits, (2, 16))
    t = made(rng, bits, (16, 64), 2, zero)
    ones = np.uint32(sum(1 << (i * bits) for i in range(32 // bits)))
    t["qzeros"] = (t["qzeros"].view(np.uint32) - ones).view(np.int32)
    stored = one(
        t, (16, 64), checkpoint_format="gptq", sym=False, meta={"quantizer": ["gptqmodel:7.7.0"]}
    )
    np.testing.assert_array_equal(stored.dense(stored.only()), oracle(t, bits, (16, 64), zero))


def test_bits_may_differ_between_matrices():
    rng = np.random.default_rng(0)
    tensors, expected = {}, {}
    for layer, bits in enumerate((4, 8)):
        t = made(rng, bits, (16, 64), 2, np.full((2, 16), (1 << (bits - 1)) - 1))
        module = f"model.layers.{layer}.mlp.up_proj"
        tensors |= {f"{module}.{part}": tensor for part, tensor in t.items()}
        expected[f"{module}.weight"] = (16, 64)
    facts = {"bits": 4, "dynamic": {r"+:.*1\.mlp": {"bits": 8}}}
    found = Stored(tensors, expected, facts).find()
    assert [m.scheme.name for m in found.values()] == ["int4-g32", "int8-g32"]
    with pytest.raises(CheckpointError, match=r'says "bits": 4 .*1\.mlp\.up_proj\.scales .*have 8'):
        Stored(tensors, expected, {"bits": 4}).find()


def test_matrices_that_are_not_quantized_are_left_alone():
    t = made(np.random.default_rng(0), 4, (16, 64), 2, np.full((2, 16), 7))
    stored = one(t, (16, 64))
    stored.tensors["lm_head.weight"] = np.zeros((16, 64), np.float16)
    stored.expected["lm_head.weight"] = (16, 64)
    assert stored.only().tensors == tuple(
        f"{MODULE}.{part}" for part in ("qweight", "qzeros", "scales", "g_idx")
    )


def test_without_g_idx_the_groups_lie_in_a_row():
    t = made(np.random.default_rng(0), 4, (16, 64), 2, np.full((2, 16), 7))
    stored = one({k: v for k, v in t.items() if k != "g_idx"}, (16, 64))
    np.testing.assert_array_equal(
        stored.dense(stored.only()), oracle(t, 4, (16, 64), np.full((2, 16), 8))
    )


def refused(kind: type[Exception], text: str, change: Any, **facts: Any) -> None:
    t = made(np.random.default_rng(0), 4, (16, 96), 3, np.full((3, 16), 7))
    change(t)
    stored = one(t, (16, 96), **facts)
    with pytest.raises(kind, match=text):
        stored.dense(stored.only())


def test_what_cannot_be_read_is_refused_in_a_sentence():
    def group(t: dict[str, Array]) -> None:
        t["g_idx"][0] = 1

    def no_group(t: dict[str, Array]) -> None:
        t["g_idx"][0] = 3

    def nan(t: dict[str, Array]) -> None:
        t["scales"][1, 1] = np.nan

    def infinite(t: dict[str, Array]) -> None:
        t["scales"][1, 1] = np.inf

    def bias(t: dict[str, Array]) -> None:
        t["bias"] = np.ones(16, np.float16)

    def zeros(t: dict[str, Array]) -> None:
        t["qzeros"] = t["qzeros"][:, :1]

    def no_scales(t: dict[str, Array]) -> None:
        del t["scales"]

    def int64(t: dict[str, Array]) -> None:
        t["qweight"] = t["qweight"].astype(np.int64)

    def uneven(t: dict[str, Array]) -> None:
        del t["g_idx"]
        for part in ("qzeros", "scales"):
            t[part] = np.concatenate([t[part], t[part]])[:5]

    refused(UnsupportedError, "puts different numbers of inputs into groups", group)
    refused(CheckpointError, "names group 3", no_group)
    refused(CheckpointError, r"down_proj\.scales holds numbers that are not finite", nan)
    refused(CheckpointError, r"down_proj\.scales holds numbers that are not finite", infinite)
    refused(UnsupportedError, r"down_proj\.bias is not zero", bias)
    refused(CheckpointError, r"qzeros is int32 \[3, 1\]\. .* needs int32 \[3, 2\]", zeros)
    refused(CheckpointError, r"The tensor .*\.scales is missing", no_scales)
    refused(CheckpointError, r"qweight is int64 .* needs int32 \[12, 16\]", int64)
    refused(UnsupportedError, "5 groups for 96 inputs", uneven)
    refused(UnsupportedError, "3 groups for 96 inputs", lambda t: None, group_size=40)
    refused(CheckpointError, '"group_size": 48 .* have 32', lambda t: None, group_size=48)
    refused(CheckpointError, '"bits": 8 .* have 4', lambda t: None, bits=8)


def test_a_bias_of_zeros_is_no_obstacle():
    t = made(np.random.default_rng(0), 4, (16, 64), 2, np.full((2, 16), 7))
    stored = one(t | {"bias": np.zeros(16, np.float16)}, (16, 64))
    matrix = stored.only()
    assert f"{MODULE}.bias" in matrix.tensors
    stored.dense(matrix)
