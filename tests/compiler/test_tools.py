"""A build that lacks a tool ends before it has done anything."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from arkinfer import build
from arkinfer.errors import DeviceError
from arkinfer.machine import c_compiler


@pytest.mark.parametrize("target", ["cpu", "arm64-dotprod", "x86-64-v3"])
def test_no_c_compiler(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint is not looked for: there is none."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(c_compiler, "find_zig", lambda: None)
    arch = {"arm64-dotprod": "aarch64", "x86-64-v3": "x86_64"}.get(target, platform.machine())
    with pytest.raises(DeviceError) as refusal:
        build(tmp_path / "no-such-checkpoint", target, backend="tvm")
    assert refusal.value.what == f"The backend tvm cannot link kernels for {arch} here"
    assert list(tmp_path.iterdir()) == []
