"""What tests against NVIDIA's bindings share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backends.trt.bindings import make_libraries, make_stubs


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with libraries that the bindings import, and that do nothing."""
    folder = tmp_path_factory.mktemp("libraries")
    make_libraries(folder)
    return folder


@pytest.fixture(scope="session")
def stubs(libraries: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of stubs: the whole of TensorRT's API, as its bindings have it."""
    folder = tmp_path_factory.mktemp("stubs")
    make_stubs(libraries, folder)
    return folder
