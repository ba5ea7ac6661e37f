"""Where the cache is: by the environment, which a doctor may have of another user."""

from __future__ import annotations

from pathlib import Path

import pytest

from arkinfer.machine.folders import cache_folder


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/somewhere")
    monkeypatch.setenv("ARKINFER_CACHE", "~/own")
    assert cache_folder() == Path("/somewhere/own")
    monkeypatch.delenv("ARKINFER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/arkinfer")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/somewhere/.cache/arkinfer")


def test_another_environment():
    assert cache_folder({"HOME": "/h"}) == Path("/h/.cache/arkinfer")
    assert cache_folder({"HOME": "/h", "XDG_CACHE_HOME": "~/c"}) == Path("/h/c/arkinfer")
    assert cache_folder({"HOME": "/h", "ARKINFER_CACHE": "/a", "XDG_CACHE_HOME": "/c"}) == Path(
        "/a"
    )
