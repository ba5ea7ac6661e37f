"""Which C compiler is found, in which order."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from arkinfer.machine import c_compiler
from arkinfer.machine.c_compiler import CCompiler, find_c_compiler

HERE = platform.machine()
OTHER = "aarch64" if HERE == "x86_64" else "x86_64"
ZIG = Path("/site-packages/ziglang/zig")


def only(*names: str) -> Callable[[str], str | None]:
    return lambda name: f"/bin/{name}" if name in names else None


@pytest.mark.parametrize(
    ("arch", "environ", "there", "command"),
    [
        (HERE, {}, ("cc", "tcc"), ("/bin/cc",)),
        (HERE, {"CC": "tcc"}, ("cc", "tcc"), ("/bin/tcc",)),
        (HERE, {"CC": "ccache gcc -m64"}, ("ccache",), ("/bin/ccache", "gcc", "-m64")),
        (HERE, {"CC": ""}, ("cc",), ("/bin/cc",)),
        (HERE, {}, (), (str(ZIG), "cc", "-target", f"{HERE}-linux-gnu.2.28")),
        (OTHER, {"CC": "tcc"}, ("tcc", f"{OTHER}-linux-gnu-gcc"), (f"/bin/{OTHER}-linux-gnu-gcc",)),
        (OTHER, {"CC": "tcc"}, ("tcc",), (str(ZIG), "cc", "-target", f"{OTHER}-linux-gnu.2.28")),
    ],
)
def test_the_order(
    arch: str,
    environ: dict[str, str],
    there: tuple[str, ...],
    command: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(c_compiler, "find_zig", lambda: ZIG)
    found = find_c_compiler(arch, environ, only(*there))
    assert found is not None
    assert found.command == command
    assert found.bundled == (command[0] == str(ZIG))


def test_without_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c_compiler, "find_zig", lambda: None)
    assert find_c_compiler(HERE, {}, only()) is None
    assert find_c_compiler(OTHER, {}, only("cc")) is None


def test_what_a_user_chose_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c_compiler, "find_zig", lambda: ZIG)
    assert find_c_compiler(HERE, {"CC": "tcc"}, only("cc")) is None
    assert find_c_compiler(OTHER, {"CC": "tcc"}, only("cc")) is not None


def test_ziglang_is_looked_for_where_this_python_has_its_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "ziglang").mkdir()
    (tmp_path / "ziglang" / "__init__.py").touch()
    assert c_compiler.find_zig() is None  # a package without its program
    (tmp_path / "ziglang" / "zig").touch()
    assert c_compiler.find_zig() == tmp_path / "ziglang" / "zig"
    assert find_c_compiler(HERE, {}, only()) == CCompiler(
        "zig cc",
        (str(tmp_path / "ziglang" / "zig"), "cc", "-target", f"{HERE}-linux-gnu.2.28"),
        bundled=True,
    )
