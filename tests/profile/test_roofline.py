"""The machine's peaks: plausible figures, in a process of their own, and nothing where none are."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

from arkinfer.profile import roofline
from arkinfer.profile.roofline import Peaks, measure_peaks


@pytest.fixture(autouse=True)
def forget():
    measure_peaks.cache_clear()
    yield
    measure_peaks.cache_clear()


def test_the_peaks_are_those_of_a_computer(monkeypatch: pytest.MonkeyPatch):
    before = threading.active_count()
    peaks = measure_peaks(1)
    assert peaks.threads == 1
    assert peaks.bandwidth is not None
    assert 0.2e9 < peaks.bandwidth < 1e12
    assert peaks.flops is not None
    assert 0.2e9 < peaks.flops < 1e13
    assert threading.active_count() <= before
    monkeypatch.setattr(sys, "executable", "")
    assert measure_peaks(1) is peaks  # once in a process


def test_more_than_was_copied_is_not_claimed():
    """numpy cannot copy faster than twice the bytes can be read."""
    rate = roofline.read_bandwidth(1, seconds=0.1)
    words = np.ones(1 << 23)
    fastest = min(roofline._shortest(words.copy, 0.05) for _ in range(2))  # pyright: ignore[reportPrivateUsage] (a clock)
    assert rate > 0.3 * words.nbytes / fastest


@pytest.mark.parametrize("executable", ["", "/nonexistent/python", "/bin/false", "/bin/echo"])
def test_what_cannot_be_measured_is_not(executable: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", executable)
    assert measure_peaks(3) == Peaks(3, None, None)


def test_a_machine_without_time_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(roofline, "TIMEOUT", 0.01)
    assert measure_peaks(1) == Peaks(1)
