"""Scales that formats with float16 hold as they are."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from arkinfer.quant.scales import eleven_bits


@given(st.lists(st.floats(2.0**-14, 60000, width=32), min_size=1, max_size=20))
def test_they_are_what_float16_rounds_to(numbers: list[float]) -> None:
    x = np.array(numbers, np.float32)
    np.testing.assert_array_equal(eleven_bits(x), x.astype(np.float16).astype(np.float32))


@given(st.lists(st.floats(2.0**-100, 2.0**100, width=32), min_size=1, max_size=20))
def test_small_and_large_ones_lose_no_more(numbers: list[float]) -> None:
    x = np.array(numbers, np.float32)
    found = eleven_bits(x)
    assert (np.abs(found - x) <= x * np.float32(2.0**-11)).all()
    np.testing.assert_array_equal(eleven_bits(found), found)
    assert eleven_bits(np.zeros(1, np.float32)) == 0
