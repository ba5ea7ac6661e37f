"""`cache.append` with a scale for each row: how far codes may be off, and rows that are odd."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arkinfer import ir
from arkinfer.ir.ops.attention import LEAST_SCALE

Array = npt.NDArray[Any]


def appended(rows: Array, *sizes: int) -> tuple[Array, Array]:
    """Codes and scales of rows that go in by parts of these sizes, or at once."""
    codes = np.zeros((0, *rows.shape[1:]), np.int8)
    scales = np.zeros((0, rows.shape[1], 1), rows.dtype)
    for part in np.split(rows, np.cumsum(sizes)[:-1]) if sizes else [rows]:
        codes, scales = ir.op_class("cache.append").ref([codes, part, scales], {})
    return codes, scales


@st.composite
def any_rows(draw: st.DrawFn) -> Array:
    """float32 [T, N, D] of magnitudes from the least to the largest numbers, row by row."""
    tokens, heads, size = (draw(st.integers(1, most)) for most in (6, 3, 130))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    powers = rng.uniform(-46, 38, (tokens, heads, 1)) if draw(st.booleans()) else 0.0
    rows = rng.standard_normal((tokens, heads, size)) / 10 * 10.0**powers
    rows[rng.random(rows.shape[:2]) < draw(st.sampled_from([0.0, 0.5]))] = 0
    return rows.astype(np.float32)


@given(any_rows())
def test_every_number_is_within_half_a_scale(rows: Array) -> None:
    with np.errstate(all="raise", under="ignore"):
        codes, scales = appended(rows)
    assert codes.dtype == np.int8
    assert scales.dtype == np.float32
    assert np.isfinite(scales).all()
    assert (scales >= LEAST_SCALE).all()
    assert np.abs(codes.astype(int)).max() <= 127
    wide = scales.astype(np.float64)
    assert (np.abs(codes * wide - rows) <= wide / 2 * (1 + 1e-5)).all()


@given(any_rows())
def test_float32_is_float64_but_for_ties(rows: Array) -> None:
    codes, scales = appended(rows)
    exact_codes, exact_scales = appended(rows.astype(np.float64))
    np.testing.assert_allclose(scales, exact_scales, rtol=1e-6)
    assert np.abs(codes.astype(int) - exact_codes).max() <= 1
    off = codes != exact_codes
    between = np.abs(np.abs(rows / exact_scales) % 1 - 0.5)
    assert (between[off] < 1e-4).all()


def test_a_row_of_zeros_stays_one() -> None:
    rows = np.zeros((2, 1, 8), np.float32)
    rows[1, 0, 3] = -1e-44  # less than any scale
    with np.errstate(all="raise", under="ignore"):
        codes, scales = appended(rows)
    assert not codes.any()
    np.testing.assert_array_equal(scales, np.full((2, 1, 1), LEAST_SCALE, np.float32))


def test_the_largest_number_of_a_row_is_kept_and_others_do_not_count() -> None:
    rows = np.array([[[1.0, -127.0], [0.5, 0.25]], [[3e38, 0.0], [-1e-3, 2e-3]]], np.float32)
    codes, scales = appended(rows)
    assert codes.tolist() == [[[1, -127], [127, 64]], [[127, 0], [-64, 127]]]
    np.testing.assert_array_equal(scales, np.abs(rows).max(-1, keepdims=True) / np.float32(127))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_visible(bad: float) -> None:
    rows = np.ones((1, 1, 4), np.float32)
    rows[0, 0, 2] = bad
    with np.errstate(all="ignore"):
        codes, scales = appended(rows)
        assert not np.isfinite(codes * scales).all()


@given(any_rows(), st.data())
def test_any_parts_give_the_same(rows: Array, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(rows)))
    whole, parts = appended(rows), appended(rows, cut, len(rows) - cut)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a, b)
