"""A build that lacks a tool ends before it has done anything."""

from __future__ import annotations

import json
import platform
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from arkinfer import build, plan
from arkinfer.errors import DeviceError
from arkinfer.machine import c_compiler
from arkinfer.testing import preset

ANOTHER = "or build with another backend: --backend onnxruntime."


def refused(folder: Path, *options: Any, **named: Any) -> str:
    """What a build says that ends before it looks for the checkpoint, of which there is none."""
    with pytest.raises(DeviceError) as refusal:
        build(folder / "no-such-checkpoint", *options, **named)
    assert list(folder.iterdir()) == []
    return str(refusal.value)


@pytest.mark.parametrize("backend", [None, "tvm"])
@pytest.mark.parametrize("target", ["cpu", "arm64-dotprod", "x86-64-v3"])
def test_no_c_compiler(
    target: str, backend: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(c_compiler, "find_zig", lambda: None)
    arch = {"arm64-dotprod": "aarch64", "x86-64-v3": "x86_64"}.get(target, platform.machine())
    said = refused(tmp_path, target, backend=backend)
    assert said.startswith(f"The backend tvm cannot link kernels for {arch} here. ")
    assert said.endswith(f", {ANOTHER}")


def test_no_compiler_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tvm", None)
    for name in ("build", "works"):
        monkeypatch.delitem(sys.modules, f"arkinfer_tvm.{name}", raising=False)
    said = (
        'The compiler of the backend "tvm" cannot run here. The Python package "tvm" is missing. '
        f'Install it: pip install "arkinfer[build]", {ANOTHER}'
    )
    assert refused(tmp_path) == said
    (tmp_path / "config.json").write_text(json.dumps(preset("tiny")))
    with pytest.raises(DeviceError) as refusal:
        plan(tmp_path)
    assert str(refusal.value) == said


def test_a_wheel_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the system does not have memory for it."""
    monkeypatch.setitem(sys.modules, "arkinfer_tvm.build", types.ModuleType("empty"))
    said = refused(tmp_path)
    assert "TVM is installed and cannot be loaded: cannot import name" in said
    assert said.endswith(f'pip install --force-reinstall "arkinfer[build]", {ANOTHER}')


def test_a_processor_without_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arkinfer_tvm.compiler.cpu_flags", frozenset[str])
    said = refused(tmp_path)
    assert said.startswith("The backend tvm has no kernels for this processor, only from ")
    assert said.endswith(". Build with another backend: --backend onnxruntime.")
