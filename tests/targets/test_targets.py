"""Every target file is whole, and a wrong name is answered with the nearest."""

from __future__ import annotations

import platform
import re
from pathlib import Path

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


def test_recipes_are_shared_by_targets_that_run_them_alike() -> None:
    targets = [load_target(name) for name in target_names()]
    for target in targets:
        if target.recipes:
            owner = load_target(target.recipes)
            assert (owner.recipes, set(owner.backends)) == ("", set(target.backends))
            assert owner.memory <= target.memory


@pytest.mark.parametrize(
    ("name", "sm", "gigabytes"),
    [
        ("jetson-agx-orin-64gb", 87, 64),
        ("jetson-agx-orin-32gb", 87, 32),
        ("jetson-orin-nx-16gb", 87, 16),
        ("jetson-orin-nx-8gb", 87, 8),
        ("jetson-orin-nano-8gb", 87, 8),
        ("jetson-orin", 87, 8),
    ],
)
def test_jetson_boards(name: str, sm: int, gigabytes: int) -> None:
    target = load_target(name)
    assert (target.sm, target.memory, target.arch) == (sm, gigabytes << 30, "aarch64")
    assert 60e9 < target.bandwidth < 205e9


@pytest.mark.parametrize(
    ("name", "arch", "least"),
    [
        ("x86-64-v3", "x86_64", "x86-64-v3"),
        ("x86-64-v4-vnni", "x86_64", "x86-64-v4-vnni"),
        ("arm64", "aarch64", "neon"),
        ("arm64-dotprod", "aarch64", "dotprod"),
        ("arm64-i8mm", "aarch64", "i8mm"),
        ("raspberry-pi-5", "aarch64", "dotprod"),
    ],
)
def test_processors(name: str, arch: str, least: str) -> None:
    """The first is the least that a processor must have; the others are what better ones take."""
    target = load_target(name)
    assert (target.arch, target.isa[0], target.backends[0]) == (arch, least, "tvm")
    assert (target.memory, target.bandwidth) == (
        (8 << 30, 17.1e9) if name == "raspberry-pi-5" else (0, 0.0)
    )


def test_the_documentation_lists_every_target() -> None:
    page = (Path(__file__).parents[2] / "docs" / "targets.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE)
    assert sorted(rows) == target_names()


def test_cpu_is_this_machine() -> None:
    target = load_target("cpu")
    assert target.arch == platform.machine()
    assert target.backends == ("tvm", "onnxruntime", "reference")


def test_an_unknown_target_offers_the_nearest() -> None:
    with pytest.raises(UsageError) as error:
        load_target("jetson-orn")
    assert str(error.value) == (
        'There is no target "jetson-orn". Did you mean "jetson-orin"? Known: '
        + ", ".join(target_names())
        + "."
    )
