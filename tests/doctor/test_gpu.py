"""GPUs, drivers and boards: files and libraries as NVIDIA's systems have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from arkinfer.doctor import gpu
from arkinfer.doctor.finding import Finding
from arkinfer.doctor.host import Host

Hosts = Callable[..., Host]
Library = Callable[[str, str], Path]

VERSION = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.90.07  Fri May 31 09:35:42 UTC 2024\n"
    "GCC version:  gcc version 12.2.0\n"
)
RELEASE = (
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan\n"
)
CUDA = """
#include <string.h>
int cuInit(unsigned f) { return %d; }
int cuDriverGetVersion(int *v) { *v = 12040; return 0; }
int cuDeviceGetCount(int *n) { *n = 1; return 0; }
int cuDeviceGetName(char *s, int n, int d) { strcpy(s, "Orin"); return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 8 : 7; return 0; }
"""


def put(host: Host, path: str, text: str) -> None:
    file = host.root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def facts(findings: list[Finding]) -> dict[str, tuple[str, str]]:
    return {finding.name: (finding.state, finding.detail) for finding in findings}


def test_a_machine_without_gpu(make_host: Hosts, library: Library):
    broken = library("libcuda.so.1", "int nothing;")
    found = gpu.check(make_host(LD_LIBRARY_PATH=str(broken)))
    assert facts(found) == {"NVIDIA GPU": ("missing", "none found")}
    assert not found[0].gap


def test_a_gpu_without_driver(
    make_host: Hosts, library: Library, script: Callable[[str, str], Path]
):
    host = make_host(LD_LIBRARY_PATH=str(library("libcuda.so.1", "int nothing;")))
    put(host, "sys/bus/pci/devices/0000:00:1f.0/vendor", "0x8086\n")
    put(host, "sys/bus/pci/devices/0000:00:1f.0/class", "0x030000\n")
    put(host, "sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n")
    put(host, "sys/bus/pci/devices/0000:01:00.0/class", "0x030200\n")
    script("ubuntu-drivers", "exit 0")
    found = gpu.check(host)
    assert facts(found)["NVIDIA GPU"] == (
        "broken", "there is one at 0000:01:00.0, but its driver is not loaded"
    )  # fmt: skip
    assert found[0].fix == "sudo ubuntu-drivers install"


def test_a_gpu_that_works(make_host: Hosts, library: Library):
    library("libcuda.so.1", CUDA % 0)
    folder = library("libnvinfer.so.10", "int getInferLibVersion(void) { return 101600; }")
    host = make_host(LD_LIBRARY_PATH=str(folder))
    put(host, "proc/driver/nvidia/version", VERSION)
    assert facts(gpu.check(host)) == {
        "NVIDIA GPU": ("ok", "Orin, compute capability 8.7; CUDA 12.4, driver 550.90.07"),
        "TensorRT": ("ok", "10.16.0"),
    }


def test_tensorrt_of_a_pc_is_no_gap(
    make_host: Hosts, library: Library, script: Callable[[str, str], Path]
):
    """Its packages are in NVIDIA's own sources, which no one command adds."""
    script("apt-get", "exit 0")
    host = make_host(LD_LIBRARY_PATH=str(library("libcuda.so.1", CUDA % 0)))
    found = gpu.check(host)[1]
    assert (found.name, found.state, found.gap) == ("TensorRT", "missing", False)


def test_a_driver_that_refuses(make_host: Hosts, library: Library):
    host = make_host(LD_LIBRARY_PATH=str(library("libcuda.so.1", CUDA % 804)))
    put(host, "proc/driver/nvidia/version", VERSION)
    found = facts(gpu.check(host))
    assert found["NVIDIA GPU"] == (
        "broken", "driver 550.90.07, but CUDA does not work: cuInit says 804"
    )  # fmt: skip


def test_a_driver_library_that_crashes(make_host: Hosts, library: Library):
    source = "int cuInit(unsigned f) { return *(volatile int *)8; }"
    host = make_host(LD_LIBRARY_PATH=str(library("libcuda.so.1", source)))
    put(host, "proc/driver/nvidia/version", VERSION)
    state, detail = facts(gpu.check(host))["NVIDIA GPU"]
    assert (state, detail.endswith("it crashed (SIGSEGV)")) == ("broken", True)


def test_a_driver_library_that_hangs(make_host: Hosts, library: Library):
    source = "#include <unistd.h>\nint cuInit(unsigned f) { sleep(60); return 0; }"
    host = make_host(LD_LIBRARY_PATH=str(library("libcuda.so.1", source)), seconds=2.0)
    put(host, "proc/driver/nvidia/version", VERSION)
    state, detail = facts(gpu.check(host))["NVIDIA GPU"]
    assert (state, detail.endswith("it did not end within 2 s")) == ("not known", True)


def test_a_jetson(make_host: Hosts, library: Library, script: Callable[[str, str], Path]):
    host = make_host(LD_LIBRARY_PATH=str(library("libcuda.so.1", CUDA % 0)))
    script("apt-get", "exit 0")
    put(host, "etc/nv_tegra_release", RELEASE)
    put(host, "proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0")
    found = gpu.check(host)
    assert facts(found) == {
        "board": ("ok", "NVIDIA Jetson Orin Nano Developer Kit, JetPack 6.2 (L4T 36.4.3)"),
        "NVIDIA GPU": ("ok", "Orin, compute capability 8.7; CUDA 12.4"),
        "TensorRT": ("missing", "no libnvinfer can be loaded"),
    }
    assert found[2].fix.removeprefix("sudo ") == "apt-get install tensorrt"


def test_a_jetson_whose_release_cannot_be_read(make_host: Hosts, library: Library):
    host = make_host(LD_LIBRARY_PATH=str(library("libcuda.so.1", CUDA % 0)))
    put(host, "proc/device-tree/model", "Jetson AGX Orin\0")
    assert facts(gpu.check(host))["board"] == (
        "not known", "Jetson AGX Orin; /etc/nv_tegra_release cannot be read"
    )  # fmt: skip
    put(host, "etc/nv_tegra_release", "something else")
    assert facts(gpu.check(host))["board"][0] == "not known"


def test_old_numbers_of_tensorrt(make_host: Hosts, library: Library):
    library("libcuda.so.1", CUDA % 0)
    folder = library("libnvinfer.so.8", "int getInferLibVersion(void) { return 8502; }")
    host = make_host(LD_LIBRARY_PATH=str(folder))
    assert facts(gpu.check(host))["TensorRT"] == ("ok", "8.5.2")
