"""Every package that the code imports is one that pyproject.toml asks for, in the right extra."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
OWN = {
    "arkinfer",
    "arkinfer_ref",
    "arkinfer_ort",
    "arkinfer_tvm",
    "arkinfer_trt",
    "tests",
    "recipes",
    "fuzz",
    "benchmarks",
}

EXTRAS = {
    "arkinfer/runtime": (), "arkinfer/artifact": ("sign",), "arkinfer/packing": (),
    "arkinfer/cli": (),
    "backends/arkinfer_ort/executor.py": ("ort",), "backends/arkinfer_tvm/executor.py": (),
    "arkinfer": ("build", "sign"), "backends": ("build", "kernels", "ort", "trt", "tvm"),
    "tests": ("build", "kernels", "ort", "tvm", "dev"), "recipes": ("build", "dev"),
    "fuzz": ("build", "ort", "tvm", "dev", "fuzz"),
}  # fmt: skip
"""Folder or file -> the extras that whoever runs it has installed."""

WITH_THE_BOARD = {"tensorrt"}
"""Comes with JetPack; where it does not, its makers say how to install it."""

ELSEWHERE = {"tests/export/llama_cpp_peer.py", "tests/frontend/quantized/written/write.py"}
"""Scripts for a Python of their own, with a library that does not install beside ours."""


def key(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def declared(extras: tuple[str, ...]) -> set[str]:
    listed = [*PROJECT["dependencies"]]
    for extra in extras:
        listed += PROJECT["optional-dependencies"][extra]
    return {key(text) for text in listed}


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Top-level packages that a file imports, also within functions, and where."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0], node.lineno


@pytest.mark.parametrize("place", EXTRAS)
def test_what_is_imported_is_asked_for(place: str):
    known, home = declared(EXTRAS[place]), packages_distributions()
    paths = [ROOT / place] if place.endswith(".py") else sorted((ROOT / place).rglob("*.py"))
    assert paths
    missing = {
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in paths
        if path.relative_to(ROOT).as_posix() not in ELSEWHERE
        for name, line in imported(path)
        if name not in sys.stdlib_module_names | OWN | WITH_THE_BOARD
        and not {key(one) for one in home.get(name, [name])} & known
    }
    assert missing == set()


def test_every_requirement_has_an_exact_version_for_our_own_runs():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    exact = {key(line) for line in lines if "==" in line and not line.startswith("#")}
    extras = tuple(PROJECT["optional-dependencies"])
    assert declared(extras) - {"arkinfer"} <= exact


def test_torch_is_pinned_by_the_constraints_alone():
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text("utf-8").split()
    for requirements in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()):
        assert not [text for text in requirements if key(text) == "torch" and "==" in text]
