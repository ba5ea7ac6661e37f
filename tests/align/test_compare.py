"""Two tensors: how far apart, in which channel, at which element."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from arkinfer.align.compare import compare, relative_error
from arkinfer.align.tolerance import SAME


def test_equal_tensors():
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    difference = compare(x, x)
    assert (difference.relative, difference.channel_relative, difference.nonfinite) == (0, 0, 0)
    expected = difference.expected
    assert (expected.shape, expected.min, expected.max, expected.mean) == ((3, 4), 0, 11, 5.5)
    assert expected.rms == pytest.approx(math.sqrt(506 / 12))
    assert SAME.allows(difference)


def test_one_channel_that_is_wrong():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((32, 100)).astype(np.float32)
    y = x.copy()
    y[:, 17] *= 1.5
    difference = compare(y, x)
    assert difference.channel == 17
    assert difference.channel_relative == pytest.approx(0.5, rel=0.3)
    assert difference.relative == pytest.approx(0.05, rel=0.3)
    row, column = difference.worst
    assert column == 17
    assert difference.worst_expected == x[row, 17]
    assert difference.worst_found == y[row, 17]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite(value: float):
    x = np.ones((2, 3), np.float32)
    y = x.copy()
    y[1, 2] = value
    difference = compare(y, x)
    assert difference.nonfinite == pytest.approx(1 / 6)
    assert difference.worst == (1, 2)
    assert difference.found.nonfinite == pytest.approx(1 / 6)
    assert not SAME.allows(difference)
    assert SAME.allows(compare(y, y))  # the same on both sides
    json.dumps(difference.to_json(), allow_nan=False)


def test_other_shapes_types_and_zeros():
    x = np.zeros((2, 3), np.float32)
    assert not SAME.allows(compare(np.zeros((3, 2), np.float32), x))
    assert SAME.allows(compare(x, x))
    assert compare(x + 1, x).relative == math.inf
    assert relative_error(x + 1, x) == math.inf
    yes, no = np.array([True, False]), np.array([True, True])
    assert SAME.allows(compare(yes, yes))
    assert not SAME.allows(compare(yes, no))
    assert SAME.allows(compare(np.zeros((0, 3)), np.zeros((0, 3))))
