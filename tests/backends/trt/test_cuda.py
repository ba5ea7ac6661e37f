"""NVIDIA's own bindings of CUDA's runtime, where there is no device: what a user reads."""

from __future__ import annotations

import sys

import pytest

from arkinfer.errors import DeviceError
from arkinfer_trt.cuda import Cuda


def devices() -> int:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    return runtime.cudaGetDeviceCount()[1] or 0


def test_a_machine_without_a_device_or_driver() -> None:
    if devices():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(DeviceError) as refusal:
        Cuda()
    assert str(refusal.value) == (
        "There is no NVIDIA GPU that this process can use. NVIDIA's driver is missing. "
        "On a Jetson, use JetPack's own Linux; in a container, start it with --runtime nvidia; "
        "elsewhere install the driver."
    )


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(ImportError) as refusal:
        Cuda()
    assert (refusal.value.name or "").partition(".")[0] == "cuda"
