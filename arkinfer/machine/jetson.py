"""Which Jetson board this is, and which release of NVIDIA's system it has. Knows no backend.

Sources: NVIDIA's list of JetPack releases, and for versions of CUDA and TensorRT their notes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from arkinfer.machine.procfs import System

Version = tuple[int, ...]


@dataclass(frozen=True)
class JetPack:
    """A release of NVIDIA's system for Jetson boards.

    Attributes:
        name: "7.2"; "5" where several are alike.
        cuda: its version of CUDA.
        tensorrt: its version of TensorRT.
    """

    name: str
    cuda: str
    tensorrt: str


RELEASES: tuple[tuple[Version, JetPack], ...] = (
    ((39, 2), JetPack("7.2", "13.2", "10.16.2")),
    ((38, 4), JetPack("7.1", "13.0", "10.13")),
    ((38, 2), JetPack("7.0", "13.0", "10.13")),
    ((36, 4, 3), JetPack("6.2", "12.6", "10.3.0")),
    ((36, 4), JetPack("6.1", "12.6", "10.3.0")),
    ((36, 3), JetPack("6.0", "12.2", "8.6.2")),
    ((35,), JetPack("5", "11.4", "8.5.2")),
)
"""By the release of L4T that it begins with; within a major one, later ones are like the last."""

CHIPS = {"tegra210": 53, "tegra186": 62, "tegra194": 72, "tegra234": 87, "tegra264": 110}
"""Compute capability by chip, as the device tree calls it; 87 is Orin."""


@dataclass(frozen=True)
class Jetson:
    """A board.

    Attributes:
        model: as its firmware calls it.
        l4t: release of NVIDIA's Linux, e.g. "36.4.3"; None: not known.
        sm: compute capability of its GPU, 87 for 8.7; None: not known.
    """

    model: str
    l4t: str | None
    sm: int | None

    @property
    def jetpack(self) -> JetPack | None:
        """The release that it has; None: one that is not known here."""
        if self.l4t is None:
            return None
        version = tuple(int(part) for part in self.l4t.split("."))
        for since, release in RELEASES:
            if version[0] == since[0] and version >= since:
                return release
        return None

    @property
    def system(self) -> str:
        """What the system is called: "JetPack 6.2 (L4T 36.4.3)"."""
        if self.jetpack is not None:
            return f"JetPack {self.jetpack.name} (L4T {self.l4t})"
        return f"L4T {self.l4t}" if self.l4t else "an unknown release of L4T"


def read_jetson(root: str | Path = "/") -> Jetson | None:
    """The board that this is; None: it is no Jetson.

    Args:
        root: the folder that stands for "/".
    """
    system = System(Path(root))
    release = system.text("etc/nv_tegra_release")
    model = system.text("proc/device-tree/model") or ""
    if release is None and "jetson" not in model.lower():
        return None
    match = re.search(r"R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)", release or "")
    compatible = system.text("proc/device-tree/compatible") or ""
    sm = next((number for chip, number in CHIPS.items() if chip in compatible), None)
    return Jetson(model or "Jetson", f"{match[1]}.{match[2]}" if match else None, sm)
