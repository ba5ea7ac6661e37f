"""Verdicts: how often they are wrong on realistic noise, and how they are worded."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest

from arkinfer.bench.cases import Case
from arkinfer.bench.compare import (
    Difference,
    Rule,
    check_launches,
    difference,
    interval_text,
    verdict,
)
from arkinfer.bench.confidence import Interval
from arkinfer.errors import UsageError
from tests.bench.noise import BUSY, QUIET, Noise, observed

PREFILL, DECODE = Case("prefill", 0, 128), Case("decode", 1024, 16)


def alarms(noise: Noise, speed: float, times: int, seed: int) -> list[set[str]]:
    """The verdicts of many comparisons."""
    random = np.random.default_rng(seed)
    return [
        {d.verdict for d in observed(random, noise, speed).differences(Rule())}
        for _ in range(times)
    ]


@pytest.mark.parametrize("noise", [QUIET, BUSY], ids=["quiet", "busy"])
def test_a_against_a_raises_hardly_an_alarm(noise: Noise):
    """One in a hundred is promised; 14 of 400 or more have a chance of one in ten thousand."""
    found = alarms(noise, 1.0, 400, seed=3)
    assert sum(kinds != {"same"} for kinds in found) <= 13


@pytest.mark.parametrize("noise", [QUIET, BUSY], ids=["quiet", "busy"])
def test_half_the_speed_is_always_seen(noise: Noise):
    assert all("slower" in kinds for kinds in alarms(noise, 0.6, 100, seed=4))
    assert all("faster" in kinds for kinds in alarms(noise, 1 / 0.6, 20, seed=5))


def test_five_per_cent_are_mostly_seen_on_a_quiet_machine():
    found = alarms(QUIET, 0.95, 100, seed=6)
    assert sum("slower" in kinds for kinds in found) >= 80
    assert not any("faster" in kinds for kinds in found)


def test_what_is_paired_is_the_round():
    """A machine that slows down in the middle of each launch, for both, changes nothing."""
    launches = [[(1.0, 1.25)] * 5 + [(8.0, 10.0)] * 5 for _ in range(10)]
    found = difference(PREFILL, launches, Rule(), 0.01)
    assert found.speed.middle == pytest.approx(0.8)
    assert found.speed.low == pytest.approx(0.8)
    assert found.observations == pytest.approx((0.8,) * 10)
    assert found.verdict == "slower"
    assert found.a == pytest.approx((128 + 16) / 2)


def of(low: float, middle: float, high: float, case: Case = PREFILL) -> Difference:
    return Difference(case, 100.0, 100.0 * middle, Interval(middle, low, high), Rule())


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((0.9, 0.95, 0.99), "slower"),
        ((1.01, 1.05, 1.09), "faster"),
        ((0.9, 0.95, 1.01), "same"),
        ((0.99, 0.995, 0.999), "same"),  # certain, and below what counts
        ((0.0, 0.5, math.inf), "unknown"),
    ],
)
def test_verdicts(interval: tuple[float, float, float], expected: str):
    assert of(*interval).verdict == expected


def test_a_gate_asks_for_certainty():
    assert of(0.80, 0.85, 0.94).slower_than(0.05)
    assert not of(0.80, 0.85, 0.96).slower_than(0.05)
    assert not of(0.0, 0.5, math.inf).slower_than(0.05)


def test_sentences():
    slow, fast = of(0.948, 0.959, 0.971), of(1.21, 1.25, 1.5, DECODE)
    same = of(0.99, 1.0, 1.015, DECODE)
    assert interval_text(slow.speed) == "4.1 % (2.9 … 5.2 %)"
    assert verdict([slow, same]) == (
        "B is slower than A: by 4.1 % (2.9 … 5.2 %) in prefill 128; 99 % confidence."
    )
    assert verdict([slow, fast]) == (
        "B is slower than A: by 4.1 % (2.9 … 5.2 %) in prefill 128; 99 % confidence. "
        "B is faster than A: by 25 % (21 … 50 %) in decode at 1,024; 99 % confidence."
    )
    assert verdict([same]) == "No difference above 1.5 % is seen; 99 % confidence."
    assert verdict([of(0.5, 1.0, 1.4)]) == (
        "No difference is certain: noise hides any up to 50 %; 99 % confidence."
    )
    assert verdict([of(0.0, 0.5, math.inf)]) == (
        "Nothing can be said with confidence: there are too few launches."
    )


def test_json():
    facts = json.loads(json.dumps(of(0.0, 0.5, math.inf).to_json()))
    assert facts["speed"] == {"middle": 0.5, "low": None, "high": None}
    assert list(of(0.9, 0.95, 1.0).to_json()) == [
        "kind", "tokens", "depth", "a", "b", "speed", "verdict", "launch_ratios",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Rule(1.0), "The confidence cannot be 100 %. It is the share of runs without a "
         "false alarm. Give 50 up to 99.99."),
        (lambda: Rule(0.9, -0.1), "The smallest effect cannot be -10 %. Give 0 up to 50."),
        (lambda: check_launches(8, 2, Rule()), "8 launches cannot give 99 % confidence in 2 cases. "
         "Each pair of processes is one observation, and so few agree by chance. Give at least "
         "--launches 9, or a lower --confidence."),
    ],
)  # fmt: skip
def test_impossible_rules(make: Callable[[], object], text: str):
    with pytest.raises(UsageError) as caught:
        make()
    assert str(caught.value) == text
    check_launches(9, 2, Rule())
