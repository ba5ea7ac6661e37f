"""Boards and their releases, by the files that NVIDIA's system has."""

from __future__ import annotations

from pathlib import Path

import pytest

from arkinfer.machine.jetson import Jetson, read_jetson
from tests.machine.machines import LAPTOP, ORIN, build


def test_a_laptop_is_no_board(tmp_path: Path):
    assert read_jetson(build(tmp_path, LAPTOP)) is None


def test_a_board(tmp_path: Path):
    build(tmp_path, ORIN)
    assert read_jetson(tmp_path) == Jetson("NVIDIA Jetson Orin Nano Developer Kit", None, None)
    release = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"
    build(tmp_path, {
        "etc/nv_tegra_release": release,
        "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0",
    })  # fmt: skip
    found = read_jetson(tmp_path)
    assert found == Jetson("NVIDIA Jetson Orin Nano Developer Kit", "36.4.3", 87)
    assert found is not None
    assert found.system == "JetPack 6.2 (L4T 36.4.3)"


@pytest.mark.parametrize(
    ("l4t", "name", "tensorrt"),
    [
        ("35.6.1", "5", "8.5.2"), ("36.3.0", "6.0", "8.6.2"), ("36.4.0", "6.1", "10.3.0"),
        ("36.5.2", "6.2", "10.3.0"), ("38.2.1", "7.0", "10.13"), ("38.4.0", "7.1", "10.13"),
        ("39.2.0", "7.2", "10.16.2"), ("39.5", "7.2", "10.16.2"),
    ],
)  # fmt: skip
def test_releases(l4t: str, name: str, tensorrt: str):
    release = Jetson("x", l4t, 87).jetpack
    assert release is not None
    assert (release.name, release.tensorrt) == (name, tensorrt)


@pytest.mark.parametrize("l4t", ["32.7.1", "36.1", "40.0.0"])
def test_other_releases_are_not_guessed(l4t: str):
    assert Jetson("x", l4t, 87).jetpack is None
    assert Jetson("x", l4t, 87).system == f"L4T {l4t}"
