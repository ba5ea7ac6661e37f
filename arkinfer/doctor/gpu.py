"""NVIDIA's part of the machine: GPU, driver, CUDA, TensorRT, and the release of a Jetson board.

Knows no backend. Libraries are asked in a process of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from arkinfer.doctor.finding import Finding
from arkinfer.doctor.host import Host
from arkinfer.doctor.install import package
from arkinfer.machine.jetson import read_jetson

TENSORRT = tuple(f"libnvinfer.so.{major}" for major in (11, 10, 8))
"""Libraries that were published under a number of their own, newest first."""


def check(host: Host) -> list[Finding]:
    """The board if it is one, the GPU, and TensorRT where there is a GPU."""
    board = _board(host)
    gpu = _gpu(host)
    if board is not None:
        return [board, gpu, _tensorrt(host, package(host, "TensorRT"))]
    return [gpu] if gpu.state == "missing" else [gpu, _tensorrt(host, "")]


def is_there(host: Host) -> bool:
    """Whether this machine has a GPU of NVIDIA's, with a driver or without."""
    driver = host.read("proc/driver/nvidia/version") is not None
    return driver or read_jetson(host.root) is not None or any(_cards(host))


def _board(host: Host) -> Finding | None:
    """A Jetson's model and release; None: it is no Jetson."""
    board = read_jetson(host.root)
    if board is None:
        return None
    if board.l4t is None:
        state = "is not as expected" if host.read("etc/nv_tegra_release") else "cannot be read"
        return Finding("board", "not known", f"{board.model}; /etc/nv_tegra_release {state}")
    notes = tuple((host.read("etc/nv_tegra_release") or "").splitlines())
    return Finding("board", "ok", f"{board.model}, {board.system}", notes=notes)


def _gpu(host: Host) -> Finding:
    loaded = host.read("proc/driver/nvidia/version")
    answer = host.ask("cuda")
    if answer.state == "ok" and answer.facts["devices"]:
        driver = _driver(loaded)
        detail = "; ".join(answer.facts["devices"])
        detail += f"; CUDA {answer.facts['version']}" + (f", driver {driver}" if driver else "")
        return Finding("NVIDIA GPU", "ok", detail)
    cards = list(_cards(host))
    if not cards and loaded is None:
        return Finding("NVIDIA GPU", "missing", "none found")
    if loaded is None:
        detail = f"there is one at {cards[0]}, but its driver is not loaded"
        return Finding("NVIDIA GPU", "broken", detail, _install_driver(host), answer.notes)
    why = answer.detail or "it finds no GPU"
    detail = f"driver {_driver(loaded) or 'loaded'}, but CUDA does not work: {why}"
    state = "not known" if answer.state == "not known" else "broken"
    return Finding("NVIDIA GPU", state, detail, notes=answer.notes)


def _driver(version: str | None) -> str:
    match = re.search(r"Kernel Module(?: for \w+)?\s+([\d.]+)", version or "")
    return match[1] if match else ""


def _cards(host: Host) -> Iterator[str]:
    """PCI addresses of NVIDIA's display controllers."""
    for device in sorted(host.root.glob("sys/bus/pci/devices/*")):
        place = device.relative_to(host.root).as_posix()
        vendor, kind = host.read(f"{place}/vendor"), host.read(f"{place}/class")
        if vendor and kind and vendor.strip() == "0x10de" and kind.startswith("0x03"):
            yield device.name


def _install_driver(host: Host) -> str:
    if host.which("ubuntu-drivers"):
        return "sudo ubuntu-drivers install"
    return package(host, "NVIDIA driver")


def _tensorrt(host: Host, fix: str) -> Finding:
    """Its version. JetPack's own sources have it; elsewhere NVIDIA's must be added first."""
    for library in TENSORRT:
        answer = host.ask("tensorrt", library)
        if answer.state == "ok":
            return Finding("TensorRT", "ok", answer.facts["version"], notes=(library,))
        if "cannot open shared object file" not in answer.detail:
            return Finding("TensorRT", answer.state, f"{library}: {answer.detail}")
    return Finding("TensorRT", "missing", "no libnvinfer can be loaded", fix)
