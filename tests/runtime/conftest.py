"""Engines on the bigram model, which is real and small."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import arkinfer
from arkinfer.runtime.engine import Engine
from tests.runtime.artifacts import write_artifact
from tests.runtime.bigram import BigramExecutor


@pytest.fixture
def make_engine(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Writes an artifact and loads it; keyword arguments of both, and `load=` for the engine's."""
    engines: list[Engine] = []

    def make(*, load: dict[str, Any] | None = None, **artifact: Any) -> Engine:
        path = write_artifact(tmp_path / f"{len(engines)}.ark", **artifact)
        engines.append(arkinfer.load(path, executor=BigramExecutor(), **(load or {})))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def engine(make_engine: Callable[..., Engine]) -> Engine:
    return make_engine()
