"""Every op on every kind of ARM that kernels are made for: the tests of tests/backends/tvm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.arm64.conftest import PROCESSORS, on_processor
from tests.arm64.emulator import Emulator
from tests.backends.tvm import test_ops
from tests.backends.tvm.conftest import quantized
from tests.backends.tvm.test_ops import *  # noqa: F403  (its tests and fixtures, all of them)

__all__ = ["quantized"]


@pytest.fixture(scope="module", params=PROCESSORS)
def isa(request: pytest.FixtureRequest, emulator: Emulator) -> Iterator[str]:
    with on_processor(emulator, request.param, test_ops):
        yield request.param
