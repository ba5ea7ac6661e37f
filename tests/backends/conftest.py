"""One lab for all tests of backends; `backend` runs a test once for each that is registered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.expectations import FEATURES, QUICK, REFUSED
from tests.backends.lab import Lab, executors


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Drops the models that a backend refuses and the features that it does not declare, and marks
    models that take long to compile."""
    kept: list[pytest.Item] = []
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        backend, name = params.get("backend"), params.get("name")
        feature = item.get_closest_marker("feature")
        declared = feature is None or feature.args[0] in FEATURES.get(backend, ())
        if declared and (name is None or name not in REFUSED.get(backend, ())):
            kept.append(item)
        if name is not None and name not in QUICK.get(backend, {name}):
            item.add_marker(pytest.mark.slow)
    items[:] = kept


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(Path(tmp_path_factory.mktemp("lab")))
    yield lab
    lab.close()


@pytest.fixture(params=sorted(executors()))
def backend(request: pytest.FixtureRequest, lab: Lab) -> str:
    """A backend whose libraries are here, on both halves; else the test says what is missing."""
    name: str = request.param
    missing = lab.missing(name)
    if missing is not None:
        pytest.skip(missing)
    return name
