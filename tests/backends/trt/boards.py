"""File trees of machines with NVIDIA GPUs, cut to what is read, and what Python finds there.

Knows no test.
"""

from __future__ import annotations

from arkinfer_trt.board import Gpu, Software

MEMORY = "MemTotal:       {total} kB\nMemFree:          812000 kB\nMemAvailable:   {free} kB\n"


def jetson(model: str, chip: str, release: str, total: int, free: int) -> dict[str, str]:
    return {
        "etc/nv_tegra_release": release,
        "proc/device-tree/model": f"{model}\0",
        "proc/device-tree/compatible": f"nvidia,p3768-0000+p3767-0000\0nvidia,{chip}\0",
        "proc/meminfo": MEMORY.format(total=total, free=free),
    }


JETPACK_5 = jetson(
    "Jetson AGX Orin Developer Kit", "tegra234",
    "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, "
    "DATE: Tue Aug  1 19:57:35 UTC 2023\n", 31_326_240, 27_001_000,
)  # fmt: skip
JETPACK_6_2 = jetson(
    "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", "tegra234",
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, "
    "DATE: Wed Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot\n", 7_802_544, 5_120_000,
)  # fmt: skip
JETPACK_7_2 = {
    **jetson(
        "NVIDIA Jetson AGX Orin Developer Kit", "tegra234",
        "# R39 (release), REVISION: 2.0, GCID: 45093121, BOARD: generic, EABI: aarch64, "
        "DATE: Tue Jun  2 10:12:00 UTC 2026\n# KERNEL_VARIANT: oot\n", 64_355_328, 58_720_256,
    ),
    "usr/lib/python3.12/dist-packages/tensorrt/__init__.py": "",
}  # fmt: skip
DESKTOP = {"proc/meminfo": MEMORY.format(total=65_536_000, free=50_000_000)}
"""A PC with an RTX 4090."""

READY = Software("10.16.2.10", bindings="13.2.0")
ORIN = Gpu("Orin", 87, 3 << 30, 61 << 30)
RTX_4090 = Gpu("NVIDIA GeForce RTX 4090", 89, 22 << 30, 24 << 30)
