"""What each instruction set of ARM does, on a processor that has it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.arm64.conftest import PROCESSORS, on_processor
from tests.arm64.emulator import Emulator
from tests.backends.tvm import test_isa
from tests.backends.tvm.test_isa import *  # noqa: F403  (its tests and fixtures, all of them)


@pytest.fixture(scope="module", params=PROCESSORS)
def isa(request: pytest.FixtureRequest, emulator: Emulator) -> Iterator[str]:
    with on_processor(emulator, request.param, test_isa):
        yield request.param
