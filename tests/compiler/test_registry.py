"""Compilers by name: those of our wheel, and what happens without one."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from arkinfer.backend import compiler, compilers, registry
from arkinfer.errors import DeviceError, InternalError, UsageError


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, registry.GROUP)


def test_our_own_compilers_are_installed() -> None:
    assert {"reference", "onnxruntime", "tvm", "tensorrt"} <= compilers().keys()
    assert compiler("reference").name == "reference"


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UsageError) as error:
        compiler("tensor-rt")
    assert 'There is no backend "tensor-rt". Did you mean "tensorrt"?' in str(error.value)


def test_two_packages_with_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    rivals = [entry("x", "a:B"), entry("x", "a:B"), entry("x", "c:D")]
    monkeypatch.setattr(registry, "entry_points", lambda group: rivals)
    with pytest.raises(UsageError) as error:
        compilers()
    assert str(error.value) == (
        'Two compilers are named "x". One is a:B, the other c:D. '
        "Uninstall the package that offers one of them."
    )


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [entry("x", "no_such_package_anywhere:Compiler"), entry("y", "arkinfer.nothing:C")]
    monkeypatch.setattr(registry, "entry_points", lambda group: found)
    with pytest.raises(DeviceError) as error:
        compiler("x")
    assert str(error.value) == (
        'The compiler of the backend "x" cannot run here. The Python package '
        '"no_such_package_anywhere" is missing. Install it: pip install "arkinfer[build]".'
    )
    with pytest.raises(InternalError, match='The compiler "y" cannot be imported'):
        compiler("y")
