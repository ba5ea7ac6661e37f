"""Packing: property tests against plain arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arkinfer.errors import InternalError, UnsupportedError, UsageError
from arkinfer.packing import (
    QuantizedTensor,
    Scheme,
    encode,
    pack_bits,
    packed_size,
    parse_scheme,
    part_specs,
    unpack_bits,
)


@given(st.integers(2, 8), st.integers(0, 40), st.integers(1, 5), st.integers(0, 2**32))
def test_unpack_inverts_pack(bits: int, count: int, rows: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (rows, count), dtype=np.uint8)
    packed = pack_bits(codes, bits)
    assert packed.shape == (rows, packed_size(count, bits))
    np.testing.assert_array_equal(unpack_bits(packed, bits, count), codes)


@given(st.integers(2, 8), st.lists(st.integers(0, 255), min_size=1, max_size=20))
def test_layout_is_the_little_endian_bit_string(bits: int, values: list[int]) -> None:
    codes = [value % (1 << bits) for value in values]
    number = sum(code << (i * bits) for i, code in enumerate(codes))
    expected = number.to_bytes(packed_size(len(codes), bits), "little")
    assert pack_bits(np.array(codes, np.uint8), bits).tobytes() == expected


SCHEMES = st.builds(
    Scheme,
    bits=st.integers(2, 8),
    group=st.sampled_from([0, 8, 16, 32, 64, 128]),
    offset=st.sampled_from(["none", "zero", "min"]),
    act_order=st.booleans(),
)


@given(SCHEMES)
def test_names_round_trip(scheme: Scheme) -> None:
    assert parse_scheme(scheme.name) == scheme


def test_names() -> None:
    assert Scheme(4, 128).name == "int4-g128"
    assert Scheme(8, 0).name == "int8-row"
    assert Scheme(4, 32, "zero").name == "int4-g32-asym"
    assert Scheme(4, 32, "min", act_order=True).name == "int4-g32-min-actorder"


def random_tensor(scheme: Scheme, rows: int, groups: int, seed: int) -> tuple[QuantizedTensor, Any]:
    """A tensor and its values in float64, computed plainly."""
    rng = np.random.default_rng(seed)
    size = scheme.group or 16
    groups = groups if scheme.group else 1
    codes = rng.integers(0, 1 << scheme.bits, (rows, groups, size), dtype=np.uint8)
    scale = rng.standard_normal((rows, groups)).astype(np.float32)
    zero = rng.integers(0, 1 << scheme.bits, (rows, groups), dtype=np.uint8)
    low = rng.standard_normal((rows, groups)).astype(np.float32)
    order = rng.permutation(groups * size).astype(np.int32)
    c, s = codes.astype(np.float64), scale.astype(np.float64)[..., None]
    if scheme.offset == "none":
        values = s * (c - 2 ** (scheme.bits - 1))
    elif scheme.offset == "zero":
        values = s * (c - zero[..., None].astype(np.float64))
    else:
        values = s * c + low[..., None]
    matrix = values.reshape(rows, -1)
    if scheme.act_order:
        matrix = matrix[:, np.argsort(order)]
    tensor = encode(
        scheme,
        codes,
        scale,
        zero=zero if scheme.offset == "zero" else None,
        min=low if scheme.offset == "min" else None,
        order=order if scheme.act_order else None,
    )
    return tensor, matrix


@settings(max_examples=60)
@given(SCHEMES, st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**32))
def test_dequantize_means_what_it_says(scheme: Scheme, rows: int, groups: int, seed: int) -> None:
    tensor, matrix = random_tensor(scheme, rows, groups, seed)
    np.testing.assert_allclose(tensor.dequantize(), matrix, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(tensor.dequantize(slice(1, 3)), tensor.dequantize()[1:3])
    again = QuantizedTensor.concatenate([tensor.rows(slice(0, 1)), tensor.rows(slice(1, None))])
    for name, part in tensor.parts().items():
        np.testing.assert_array_equal(again.parts()[name], part)
    specs = part_specs(scheme, tensor.shape)
    assert {n: (p.dtype, p.shape) for n, p in tensor.parts().items()} == specs


def test_a_group_that_does_not_divide_the_inputs_is_named() -> None:
    with pytest.raises(UnsupportedError) as error:
        Scheme(4, 128).group_size(320)
    assert str(error.value) == (
        "int4-g128 does not fit a matrix with 320 inputs. groups of 128 must divide the inputs "
        "and fill whole bytes. Choose another group size, or row."
    )


@pytest.mark.parametrize("name", ["int4", "int9-g32", "int4-g", "int1-row", "int4-g128-sym", ""])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is not a quantization scheme"):
        parse_scheme(name)


def test_schemes_must_fill_bytes() -> None:
    with pytest.raises(UsageError, match="3 bits in groups of 12"):
        Scheme(3, 12)


def test_parts_are_checked() -> None:
    codes = np.zeros((2, 1, 4), np.uint8)
    with pytest.raises(InternalError, match="scale of int4-g8"):
        QuantizedTensor(Scheme(4, 8), (2, 8), codes, np.zeros((2, 2), np.float32))
    with pytest.raises(InternalError, match="needs"):
        QuantizedTensor(Scheme(4, 8, "zero"), (2, 8), codes, np.zeros((2, 1), np.float32))
