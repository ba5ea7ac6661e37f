"""A value from a thread: computed once, at once; its error belongs to whoever asks."""

from __future__ import annotations

import threading

import pytest

from arkinfer.runtime.later import Later


def test_it_starts_at_once_and_is_computed_once():
    started, go = threading.Event(), threading.Event()
    calls: list[str] = []

    def compute() -> str:
        started.set()
        go.wait(10)
        calls.append("x")
        return "value"

    later = Later(compute)
    assert started.wait(10)
    go.set()
    assert [later.get(), later.get()] == ["value", "value"]
    assert calls == ["x"]


def test_an_error_comes_with_each_asking():
    later = Later(lambda: int("no"))
    for _ in range(2):
        with pytest.raises(ValueError, match="invalid literal"):
            later.get()
