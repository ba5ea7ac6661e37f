"""Rank tests against their definitions, and how often their intervals miss."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from arkinfer.bench.confidence import (
    launches_needed,
    paired,
    pairs_needed,
    rank_sum_chances,
    signed_rank_chances,
    unpaired,
)


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_signed_ranks_against_all_arrangements_of_signs(count: int):
    sums = [
        sum(rank for rank, positive in enumerate(signs, 1) if positive)
        for signs in itertools.product([False, True], repeat=count)
    ]
    expected = np.bincount(sums) / 2**count
    np.testing.assert_allclose(signed_rank_chances(count), expected)


@pytest.mark.parametrize(("first", "second"), [(1, 1), (1, 4), (4, 1), (3, 5), (5, 3)])
def test_rank_sums_against_all_arrangements(first: int, second: int):
    counts = [
        sum(a < b for b in chosen for a in set(range(first + second)) - set(chosen))
        for chosen in itertools.combinations(range(first + second), second)
    ]
    expected = np.bincount(counts) / len(counts)
    np.testing.assert_allclose(rank_sum_chances(first, second), expected)


def test_an_interval_by_hand():
    """Six pairs and 5 %: a sum of 0 has the chance 1/64, so the ends are the extreme means."""
    found = paired([3.0, 1.0, 4.0, 2.0, 9.0, 6.0], 0.05)
    assert (found.middle, found.low, found.high) == (4.0, 1.0, 9.0)
    ten = paired(list(range(10)), 0.005)  # sums 0 and 1 have the chance 2/1024 together
    assert (ten.middle, ten.low, ten.high) == (4.5, 0.5, 8.5)


def test_an_unpaired_interval_by_hand():
    """Four and four, 5 %: 1/70 on either side, so the ends are the extreme differences."""
    found = unpaired([0.0, 1.0, 2.0, 3.0], [10.0, 11.0, 12.0, 13.0], 0.05)
    assert (found.middle, found.low, found.high) == (10.0, 7.0, 13.0)


def test_too_few_observations_say_nothing():
    for found in (paired([1.0] * 5, 0.05), unpaired([1.0] * 3, [2.0] * 3, 0.05)):
        assert (found.low, found.high) == (-math.inf, math.inf)
    assert math.isnan(paired([], 0.05).middle)


def test_how_many_are_needed():
    for alpha in (0.05, 0.01, 0.005, 0.0025):
        count = pairs_needed(alpha)
        assert math.isfinite(paired([1.0] * count, alpha).low)
        assert not math.isfinite(paired([1.0] * (count - 1), alpha).low)
        sides = launches_needed(alpha)
        assert math.isfinite(unpaired([1.0] * sides, [2.0] * sides, alpha).low)
        assert not math.isfinite(unpaired([1.0] * (sides - 1), [2.0] * (sides - 1), alpha).low)


@pytest.mark.parametrize("noise", ["normal", "heavy", "two places"])
def test_intervals_miss_as_seldom_as_they_say(noise: str):
    """Whatever the noise is: the chance of more misses than asserted is below one in a thousand."""
    random = np.random.default_rng(1)
    draw = {
        "normal": lambda n: random.normal(size=n),
        "heavy": lambda n: random.standard_cauchy(n),
        "two places": lambda n: random.choice([-1.0, 1.0], n) + random.normal(0, 0.01, n),
    }[noise]
    missed = {"paired": 0, "unpaired": 0}
    for _ in range(1000):
        one = paired(draw(10), 0.05)
        two = unpaired(draw(8), draw(7) + 3.0, 0.05)
        missed["paired"] += not one.low <= 0 <= one.high
        missed["unpaired"] += not two.low <= 3 <= two.high
    assert max(missed.values()) <= 73
    assert min(missed.values()) >= 15  # and they are no wider than need be
