"""Round-to-nearest against plain float64 arithmetic."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arkinfer.errors import CheckpointError, UnsupportedError, UsageError
from arkinfer.packing import Scheme
from arkinfer.quant import parse_quant, round_to_nearest

SCHEMES = st.builds(
    Scheme,
    bits=st.sampled_from([2, 3, 4, 8]),
    group=st.sampled_from([0, 32, 64]),
    offset=st.sampled_from(["none", "zero"]),
)


def plain_error(w: np.ndarray, scheme: Scheme) -> np.ndarray:
    """Squared error per row of absmax / min-max rounding without search."""
    size = scheme.group or w.shape[1]
    g = w.astype(np.float64).reshape(len(w), -1, size)
    if scheme.offset == "none":
        high = 2 ** (scheme.bits - 1) - 1
        scale = np.abs(g).max(-1, keepdims=True) / high
        back = np.clip(np.rint(g / scale), -high - 1, high) * scale
    else:
        top = 2**scheme.bits - 1
        low, high = np.minimum(g.min(-1, keepdims=True), 0), np.maximum(g.max(-1, keepdims=True), 0)
        scale = (high - low) / top
        zero = np.rint(-low / scale)
        back = (np.clip(np.rint(g / scale) + zero, 0, top) - zero) * scale
    return ((g - back) ** 2).sum((1, 2))


@settings(max_examples=40)
@given(SCHEMES, st.integers(1, 9), st.integers(0, 2**32))
def test_search_is_never_worse_than_plain_rounding(scheme: Scheme, rows: int, seed: int) -> None:
    w = np.random.default_rng(seed).standard_t(4, (rows, 192)).astype(np.float32)
    found = round_to_nearest(w, scheme)
    error = ((found.dequantize().astype(np.float64) - w) ** 2).sum(1)
    assert (error <= plain_error(w, scheme) * (1 + 1e-4)).all()
    assert (found.scale > 0).all()


def test_four_bits_lose_what_theory_says() -> None:
    """A Gaussian in groups of 128 keeps about 19 dB with an absmax range; the search gains."""
    w = np.random.default_rng(3).standard_normal((256, 1024)).astype(np.float32)
    errors = {}
    for clip in (False, True):
        back = round_to_nearest(w, Scheme(4, 128), clip=clip).dequantize()
        errors[clip] = float(np.mean((back - w) ** 2))
    assert 0.009 < errors[False] < 0.016
    assert errors[True] < 0.85 * errors[False]


@settings(max_examples=30)
@given(SCHEMES, st.integers(0, 2**32))
def test_what_is_representable_comes_back(scheme: Scheme, seed: int) -> None:
    """Codes times a power of two, with both ends of the range present in every group."""
    rng = np.random.default_rng(seed)
    size = scheme.group or 64
    high = 2 ** (scheme.bits - 1) - 1
    codes = rng.integers(-high, high + 1, (5, 64 // size, size)).astype(np.float32)
    codes[..., 0], codes[..., 1] = -high, high
    w = (codes * np.float32(2.0**-7)).reshape(5, 64)
    found = round_to_nearest(w, scheme)
    if scheme.offset == "none":
        np.testing.assert_allclose(found.dequantize(), w, rtol=1e-5)
    else:  # the zero point may be half a step off, the search may trade the ends for the rest
        step = (w.max() - w.min()) / (2**scheme.bits - 1)
        assert np.abs(found.dequantize() - w).mean() <= step


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_blocks_do_not_show(dtype: type) -> None:
    """A matrix larger than a block equals its rows quantized one by one, whatever the dtype."""
    w = np.random.default_rng(5).standard_normal((700, 512)).astype(dtype)
    whole = round_to_nearest(w, Scheme(4, 32))
    for row in (0, 511, 512, 699):
        one = round_to_nearest(w[row : row + 1], Scheme(4, 32))
        np.testing.assert_array_equal(whole.codes[row], one.codes[0])
        np.testing.assert_array_equal(whole.scale[row], one.scale[0])


def test_zero_groups_stay_zero() -> None:
    w = np.zeros((2, 64), np.float32)
    w[1, 40] = 3
    for scheme in (Scheme(4, 32), Scheme(4, 32, "zero"), Scheme(8, 0)):
        np.testing.assert_allclose(round_to_nearest(w, scheme).dequantize(), w, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("offset", ["none", "zero"])
def test_numbers_that_are_not_finite_are_refused(bad: float, offset: str) -> None:
    w = np.ones((2, 64), np.float32)
    w[1, 3] = bad
    with pytest.raises(CheckpointError, match="not finite"):
        round_to_nearest(w, Scheme(4, 32, offset))


def test_group_must_divide() -> None:
    with pytest.raises(UnsupportedError, match="int4-g64 does not fit a matrix with 96 inputs"):
        round_to_nearest(np.ones((1, 96), np.float32), Scheme(4, 64))


def test_specs() -> None:
    assert parse_quant("none").linear is None
    assert parse_quant("int4-g128").linear == Scheme(4, 128)
    assert parse_quant("int4-g128").embedding == Scheme(8, 128)
    assert parse_quant("int4-g128", "int4-g128").embedding == Scheme(4, 128)
    assert parse_quant("int4-g128-asym", "none").embedding is None
    assert parse_quant("int8-row").linear == Scheme(8, 0)
    for name in ("int4", "int8"):
        spec = parse_quant(name)
        assert spec.linear is not None
        assert spec.linear.bits == int(name[3:])


def test_an_unknown_spec_offers_the_nearest() -> None:
    with pytest.raises(UsageError) as error:
        parse_quant("int4-g129")
    assert str(error.value).startswith(
        'There is no quantization "int4-g129". Did you mean "int4-g128"? Known: none, '
    )
