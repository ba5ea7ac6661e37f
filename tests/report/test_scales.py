"""Axes: everything fits, the numbers beside them are round, nothing odd breaks them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arkinfer.report.scales import number, scale, scale_at

NAN, INFINITE = float("nan"), float("inf")


def test_round_numbers():
    assert scale([3, 97]).ticks == (0, 20, 40, 60, 80, 100)
    assert (
        scale([0.13, 0.29]).ticks == (0.1, 0.15, 0.2, 0.25, 0.3) or scale([0.13, 0.29]).low == 0.1
    )
    assert scale([512, 530], zero=True).low == 0
    assert scale([-3, 8], zero=True).ticks == (-4, -2, 0, 2, 4, 6, 8)
    assert scale([1, 1000], log=True).ticks == (1, 10, 100, 1000)
    assert scale([30, 700], log=True).ticks == (50, 100, 200, 500)
    assert scale([1e-12, 1e9], log=True).ticks[0] == pytest.approx(1e-12)


def test_few_values_are_their_own_labels():
    assert scale_at([512, 128, 512, 2048], log=True).ticks == (128, 512, 2048)
    assert len(scale_at(range(100)).ticks) <= 7


def test_where_values_lie():
    line, log = scale([0, 100]), scale([1, 100], log=True)
    assert [line.place(v) for v in (0, 50, 100)] == [0, 0.5, 1]
    assert [round(log.place(v), 9) for v in (1, 10, 100)] == [0, 0.5, 1]
    assert not log.shows(0)
    assert not line.shows(NAN)
    assert line.shows(0)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [[], [NAN, INFINITE], [7.0], [7.0, 7.0, NAN], [0.0], [-5.0]])
def test_hardly_anything_to_show(values: list[float], log: bool):
    found = scale(values, log=log)
    assert found.low < found.high
    assert found.ticks
    for value in filter(found.shows, values):
        assert 0 <= found.place(value) <= 1


SIZES = st.floats(-1e12, 1e12, allow_nan=False).map(lambda v: float(f"{v:.6g}"))


@given(st.lists(SIZES, min_size=1, max_size=8), st.booleans(), st.booleans())
def test_every_value_fits_and_the_ticks_rise(values: list[float], log: bool, zero: bool):
    found = scale(values, log=log, zero=zero)
    assert all(-1e-9 <= found.place(v) <= 1 + 1e-9 for v in values if found.shows(v))
    assert list(found.ticks) == sorted(set(found.ticks))
    assert found.low <= found.ticks[0]
    assert found.ticks[-1] <= found.high
    assert 1 <= len(found.ticks) <= 9


def test_numbers_for_people():
    assert number(123456) == "123 k"
    assert number(99_999) == "99,999"
    assert number(-1024) == "-1,024"
    assert number(-INFINITE) == "−∞"
    assert number(math.pi) == "3.14"
    assert number(999_999) == "1,000 k"
    assert number(1e-5) == "1e-5"
    assert number(2.5e20) == "2.5e+20"
