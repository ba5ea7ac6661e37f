"""Every target file is whole, and a wrong name is answered with the nearest."""

from __future__ import annotations

import platform

import pytest

from arkinfer.backend import compilers
from arkinfer.errors import UsageError
from arkinfer.targets import load_target, target_names


@pytest.mark.parametrize("name", target_names())
def test_targets_name_backends_that_exist(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert set(target.backends) <= set(compilers())
    assert target.total_memory() > 1 << 30


def test_cpu_is_this_machine() -> None:
    target = load_target("cpu")
    assert target.arch == platform.machine()
    assert target.backends[0] == "onnxruntime"


def test_an_unknown_target_offers_the_nearest() -> None:
    with pytest.raises(UsageError) as error:
        load_target("jetson-orn")
    assert str(error.value) == (
        'There is no target "jetson-orn". Did you mean "jetson-orin"? Known: cpu, jetson-orin.'
    )
