"""The command that installs something on this kind of system. Knows no check."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from arkinfer.doctor.host import Host

MANAGERS = {
    "apt-get": "apt-get install",
    "dnf": "dnf install",
    "zypper": "zypper install",
    "pacman": "pacman -S",
    "apk": "apk add",
    "brew": "brew install",
}
"""Package managers, by the program that tells them."""

PACKAGES: dict[str, dict[str, str]] = {
    "C compiler": {
        "apt-get": "gcc libc6-dev",
        "dnf": "gcc glibc-devel",
        "zypper": "gcc glibc-devel",
        "pacman": "gcc",
        "apk": "gcc musl-dev",
        "brew": "gcc",
    },
    "NVIDIA driver": {"apt-get": "nvidia-driver", "pacman": "nvidia"},
    "TensorRT": {"apt-get": "tensorrt"},
}
"""Names of packages by what they bring, and by package manager."""


def package(host: Host, what: str) -> str:
    """The command that installs what PACKAGES knows; "": not on this system."""
    for manager, command in MANAGERS.items():
        if host.which(manager) and manager in PACKAGES[what]:
            return f"{_privilege(host, manager)}{command} {PACKAGES[what][manager]}"
    return ""


def _privilege(host: Host, manager: str) -> str:
    if manager == "brew" or os.geteuid() == 0 or host.which("sudo") is None:
        return ""
    return "sudo "


def pip(host: Host, *wanted: str) -> str:
    """The command that installs Python packages for the Python that runs this.

    It is `pip` where that is this Python's own; another one would mend another environment.
    """
    found = host.which("pip")
    ours = Path(sys.executable).parent
    command = "pip" if found and found.parent == ours else f"{sys.executable} -m pip"
    return f"{command} install " + " ".join(f'"{each}"' for each in wanted)
