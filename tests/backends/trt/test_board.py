"""What is refused on which machine, in which words, before anything is loaded."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from arkinfer.errors import DeviceError
from arkinfer_trt import board as boards
from arkinfer_trt import support
from arkinfer_trt.board import (
    Board,
    Gpu,
    Software,
    check_disk,
    check_gpu,
    check_memory,
    check_software,
    read_board,
)
from tests.backends.trt.boards import (
    DESKTOP,
    JETPACK_5,
    JETPACK_6_2,
    JETPACK_7_2,
    ORIN,
    READY,
    RTX_4090,
)
from tests.machine.machines import build

WANTED = ">=10.15"

TOO_OLD = "and the artifact needs >=10.15. Install JetPack 7.2 or newer, with NVIDIA's SDK Manager."
TOO_NEW = (
    "is newer than what this arkinfer knows. It was written for 10.15 up to, not including, 11. "
    "Install a newer arkinfer (pip install --upgrade arkinfer), or an older TensorRT: "
)
WHEEL = 'pip install "tensorrt-cu13>=10.15,<11".'


def machine(folder: Path, files: dict[str, str], software: Software = READY) -> Board:
    return read_board(build(folder, files), software)


def refusal(board: Board) -> str:
    with pytest.raises(DeviceError) as caught:
        check_software(board, WANTED)
    return str(caught.value)


def test_what_is_read_of_a_board(tmp_path: Path):
    board = machine(tmp_path, JETPACK_7_2)
    assert board.jetson is not None
    assert board.jetson.model == "NVIDIA Jetson AGX Orin Developer Kit"
    assert board.jetson.system == "JetPack 7.2 (L4T 39.2.0)"
    assert (board.jetson.sm, board.distribution) == (87, True)
    assert (board.memory, board.memory_free) == (64_355_328 << 10, 58_720_256 << 10)
    facts = board.to_json()
    assert facts["jetson"]["jetpack"] == {"name": "7.2", "cuda": "13.2", "tensorrt": "10.16.2"}
    assert facts["software"] == {"tensorrt": "10.16.2.10", "problem": "", "bindings": "13.2.0"}


def test_machines_that_are_ready(tmp_path: Path):
    for name, files in {"jetson": JETPACK_7_2, "desktop": DESKTOP}.items():
        check_software(machine(tmp_path / name, files), WANTED)
    check_gpu(ORIN, 87)
    check_gpu(RTX_4090, 87)  # later GPUs run earlier kernels


def test_engines_are_kept_under_the_board_s_name(tmp_path: Path):
    """CUDA calls the GPU of every Orin module the same."""
    assert machine(tmp_path / "a", JETPACK_7_2).device(ORIN) == JETPACK_7_2[
        "proc/device-tree/model"
    ].strip("\0")
    assert machine(tmp_path / "b", DESKTOP).device(RTX_4090) == "NVIDIA GeForce RTX 4090"


@pytest.mark.parametrize(
    ("files", "software", "text"),
    [
        (JETPACK_5, Software("8.5.2.2"),
         "JetPack 5 (L4T 35.4.1) cannot finish this artifact for the GPU. "
         f"It has TensorRT 8.5.2.2, {TOO_OLD}"),
        (JETPACK_6_2, Software(),
         "JetPack 6.2 (L4T 36.4.3) cannot finish this artifact for the GPU. "
         f"It has TensorRT 10.3.0, {TOO_OLD}"),
        (JETPACK_7_2, Software(),
         "This Python has no TensorRT. The system's own Python has it, and another one or a closed "
         "environment cannot see it. Use the system's: /usr/bin/python3 -m venv "
         "--system-site-packages ~/arkinfer, and install arkinfer there."),
        ({k: v for k, v in JETPACK_7_2.items() if "dist-packages" not in k}, Software(),
         "This board has no TensorRT. It is a part of JetPack. Install it: sudo apt-get install "
         "tensorrt python3-libnvinfer."),
        (JETPACK_7_2, Software(problem="libnvinfer.so.10: cannot open shared object file"),
         "TensorRT cannot be imported. Python says: libnvinfer.so.10: cannot open shared object "
         "file. Install it: sudo apt-get install --reinstall tensorrt python3-libnvinfer."),
        (JETPACK_7_2, Software("11.4.1", bindings="13.2.0"),
         f"TensorRT 11.4.1 {TOO_NEW}"
         'sudo apt-get install --allow-downgrades "tensorrt=10.16*" '
         '"python3-libnvinfer=10.16*".'),
        (JETPACK_7_2, Software("10.16.2"),
         'The Python package "cuda-bindings" is missing. It is how engines are given memory and '
         'work. Install it: pip install "arkinfer[trt]".'),
        (DESKTOP, Software(),
         "This machine has no TensorRT. The artifact's section for the GPU is finished and run by "
         f"NVIDIA's TensorRT. Where there is an NVIDIA GPU, install it: {WHEEL}"),
        (DESKTOP, Software("10.13.3.9", bindings="13.2.0"),
         "The artifact needs TensorRT >=10.15. Version 10.13.3.9 is installed. Where there is an "
         f"NVIDIA GPU, install it: {WHEEL}"),
        (DESKTOP, Software("11.0.0", bindings="13.2.0"),
         f"TensorRT 11.0.0 {TOO_NEW}{WHEEL}"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, files: dict[str, str], software: Software, text: str):
    assert refusal(machine(tmp_path, files, software)) == text


def test_an_older_gpu():
    with pytest.raises(DeviceError) as caught:
        check_gpu(Gpu("Xavier", 72, 1, 1), 87)
    assert str(caught.value) == (
        "This GPU (Xavier) cannot run the artifact. It has compute capability 7.2, and the "
        "artifact was built for 8.7 or newer. Build it for this machine's GPU: arkinfer build "
        "--target NAME."
    )


def test_memory(tmp_path: Path):
    """A board's is the system's, which CUDA's own figure leaves the caches of files out of."""
    board = machine(tmp_path / "nano", JETPACK_6_2)
    check_memory(board, ORIN, 5_120_000 << 10, "Running the model")
    with pytest.raises(DeviceError) as caught:
        check_memory(board, ORIN, 6 << 30, "Building the engine", "take weights as inputs")
    assert str(caught.value) == (
        "Building the engine takes about 6.0 GiB of memory, and 4.9 GiB are free. Take weights as "
        "inputs, or stop the desktop while it runs: sudo systemctl isolate multi-user.target."
    )
    with pytest.raises(DeviceError) as caught:
        check_memory(machine(tmp_path / "pc", DESKTOP), RTX_4090, 30 << 30, "Running the model")
    assert str(caught.value) == (
        "Running the model takes about 30.0 GiB of memory, and 22.0 GiB are free. Close other "
        "programs."
    )


def test_disk(tmp_path: Path):
    check_disk(tmp_path / "not" / "there" / "yet", 1 << 20)
    with pytest.raises(DeviceError) as caught:
        check_disk(tmp_path / "not", 1 << 60)
    text = str(caught.value)
    assert text.startswith("The engine takes about 1073741824.0 GiB of disk. ")
    assert text.endswith(
        f'are free in "{tmp_path}". Make room: arkinfer cache prune --all, or name another disk: '
        "export ARKINFER_CACHE=FOLDER."
    )


def test_what_python_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def find(source: str | None) -> Software:
        (tmp_path / "tensorrt.py").unlink(missing_ok=True)
        if source is not None:
            (tmp_path / "tensorrt.py").write_text(source)
        sys.modules.pop("tensorrt", None)
        return boards.read_software()

    monkeypatch.setattr(sys, "path", [str(tmp_path), *(p for p in sys.path if "site-pack" in p)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    assert find(None).tensorrt == find(None).problem == ""
    assert find('__version__ = "10.16.2"').tensorrt == "10.16.2"
    os.utime(tmp_path)  # so that the import system looks again
    broken = find('raise ImportError("libnvinfer.so.10: cannot open")')
    assert (broken.tensorrt, broken.problem) == ("", "libnvinfer.so.10: cannot open")
    sys.modules.pop("tensorrt", None)


def test_compiler_and_board_want_the_same_tensorrt():
    assert support.VERSION == ".".join(map(str, boards.OLDEST))
