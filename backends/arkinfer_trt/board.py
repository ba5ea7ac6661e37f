"""What this machine offers to TensorRT, and whether that is what a section needs: asked before
anything is loaded, answered in one sentence with the command that mends it. Knows no engine.

Sources: NVIDIA's support matrix for JetPack, and TensorRT's release notes.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from arkinfer.errors import DeviceError
from arkinfer.machine.folders import CACHE
from arkinfer.machine.jetson import Jetson, read_jetson
from arkinfer.machine.procfs import System
from arkinfer.runtime.versions import numbers, satisfies
from arkinfer.words import human

OLDEST = (10, 15)
"""The first TensorRT whose parser takes RMSNormalization, RotaryEmbedding and TensorScatter."""

UNKNOWN = (11,)
"""The first TensorRT that this arkinfer was not written for."""

BINDINGS = "cuda-bindings"

FREE_MEMORY = "stop the desktop while it runs: sudo systemctl isolate multi-user.target"
"""What gives a board the most memory at once."""


@dataclass(frozen=True)
class Software:
    """What Python finds of NVIDIA's libraries.

    Attributes:
        tensorrt: version of the module; "": it cannot be imported.
        problem: why the module that is there cannot be imported; "": it can, or there is none.
        bindings: version of CUDA's bindings for Python; "": there are none.
    """

    tensorrt: str = ""
    problem: str = ""
    bindings: str = ""


@dataclass(frozen=True)
class Gpu:
    """A GPU that CUDA can use.

    Attributes:
        name: CUDA's, e.g. "Orin".
        sm: compute capability, 87 for 8.7.
        free: bytes of its memory that are free; a board's are the system's, see `Board`.
        total: bytes of its memory.
    """

    name: str
    sm: int
    free: int
    total: int


@dataclass(frozen=True)
class Board:
    """A machine that may run engines.

    Attributes:
        jetson: None: it is none, but a PC or a server.
        software: what Python finds.
        memory: bytes of the machine, on a Jetson the GPU's as well; None: not known.
        memory_free: bytes that programs can still get.
        distribution: whether the system's own Python has TensorRT, perhaps not the one that runs.
    """

    jetson: Jetson | None
    software: Software
    memory: int | None = None
    memory_free: int | None = None
    distribution: bool = False

    def device(self, gpu: Gpu) -> str:
        """The name that engines are kept under: CUDA calls every Orin "Orin"."""
        return self.jetson.model if self.jetson is not None else gpu.name

    def free(self, gpu: Gpu) -> int:
        """Bytes that an engine can get: CUDA leaves out what the system would give up."""
        if self.jetson is not None and self.memory_free is not None:
            return self.memory_free
        return gpu.free

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a report."""
        facts = asdict(self)
        if self.jetson is not None and self.jetson.jetpack is not None:
            facts["jetson"]["jetpack"] = asdict(self.jetson.jetpack)
        return facts


def read_board(root: str | Path = "/", software: Software | None = None) -> Board:
    """This machine.

    Args:
        root: the folder that stands for "/".
        software: what Python finds; None: what this one does.
    """
    system = System(Path(root))
    places = ("usr/lib/python3*/dist-packages/tensorrt", "usr/lib/python3*/site-packages/tensorrt")
    return Board(
        read_jetson(root),
        read_software() if software is None else software,
        system.kib("proc/meminfo", "MemTotal"),
        system.kib("proc/meminfo", "MemAvailable"),
        any(system.each(place) for place in places),
    )


def read_software() -> Software:
    """What this Python finds. Imports TensorRT: its version is nowhere else for sure."""
    try:
        bindings = version(BINDINGS)
    except PackageNotFoundError:
        bindings = ""
    if find_spec("tensorrt") is None:
        return Software(bindings=bindings)
    try:
        found = str(import_module("tensorrt").__version__)
    except Exception as error:  # ImportError, and whatever a library says that is half there
        text = " ".join(str(error).split()) or type(error).__name__
        return Software(problem=text, bindings=bindings)
    return Software(found, bindings=bindings)


def check_software(board: Board, wanted: str) -> None:
    """Whether the system, TensorRT and CUDA's bindings are those that a section needs.

    Args:
        board: the machine.
        wanted: versions of TensorRT as the section requires them, e.g. ">=10.15".

    Raises:
        DeviceError: naming what is there, what is needed, and the command that mends it.
    """
    jetson, found = board.jetson, board.software
    if jetson is not None and jetson.jetpack is not None:
        there = found.tensorrt or jetson.jetpack.tensorrt
        if max(numbers(there), numbers(jetson.jetpack.tensorrt)) < OLDEST:
            raise DeviceError(
                f"{jetson.system} cannot finish this artifact for the GPU",
                f"It has TensorRT {there}, and the artifact needs {wanted}",
                "Install JetPack 7.2 or newer, with NVIDIA's SDK Manager",
            )
    if found.problem:
        raise DeviceError(
            "TensorRT cannot be imported",
            f"Python says: {found.problem}",
            _install(board, "--reinstall "),
        )
    if not found.tensorrt:
        raise _no_tensorrt(board)
    _check_version(board, wanted)
    if not found.bindings:
        raise DeviceError(
            f'The Python package "{BINDINGS}" is missing',
            "It is how engines are given memory and work",
            'Install it: pip install "arkinfer[trt]"',
        )


def check_gpu(gpu: Gpu, sm: int) -> None:
    """Whether a GPU runs kernels that were compiled for a compute capability.

    Raises:
        DeviceError: it is too old.
    """
    if gpu.sm < sm:
        raise DeviceError(
            f"This GPU ({gpu.name}) cannot run the artifact",
            f"It has compute capability {_capability(gpu.sm)}, and the artifact was built for "
            f"{_capability(sm)} or newer",
            "Build it for this machine's GPU: arkinfer build --target NAME",
        )


def check_memory(board: Board, gpu: Gpu, need: int, what: str, instead: str = "") -> None:
    """Whether there is memory for something.

    Args:
        board: the machine.
        gpu: its GPU.
        need: bytes.
        what: "Building the engine" or "Running the model".
        instead: a way that takes less, as a clause; "": there is none.

    Raises:
        DeviceError: not so much is free; both numbers are named.
    """
    free = board.free(gpu)
    if need > free:
        other = FREE_MEMORY if board.jetson is not None else "close other programs"
        fix = f"{instead}, or {other}" if instead else other
        raise DeviceError(
            f"{what} takes about {human(need)} of memory, and {human(free)} are free",
            "",
            fix[:1].upper() + fix[1:],
        )


def check_disk(folder: Path, need: int) -> None:
    """Whether an engine of `need` bytes fits on the disk of a folder, which need not be there yet.

    Raises:
        DeviceError: it does not.
    """
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        free = shutil.disk_usage(there).free
    except OSError:
        return  # whoever writes there will hear of it
    if need > free:
        raise DeviceError(
            f"The engine takes about {human(need)} of disk",
            f'{human(free)} are free in "{there}"',
            f"Make room: arkinfer cache prune --all, or name another disk: export {CACHE}=FOLDER",
        )


def _check_version(board: Board, wanted: str) -> None:
    found = board.software.tensorrt
    if numbers(found) >= UNKNOWN:
        raise DeviceError(
            f"TensorRT {found} is newer than what this arkinfer knows",
            f"It was written for {_dotted(OLDEST)} up to, not including, {_dotted(UNKNOWN)}",
            "Install a newer arkinfer (pip install --upgrade arkinfer), or " + _pinned(board),
        )
    if not satisfies(found, wanted):
        raise DeviceError(
            f"The artifact needs TensorRT {wanted}",
            f"Version {found} is installed",
            _install(board, "--only-upgrade "),
        )


def _no_tensorrt(board: Board) -> DeviceError:
    if board.distribution:
        return DeviceError(
            "This Python has no TensorRT",
            "The system's own Python has it, and another one or a closed environment cannot see it",
            "Use the system's: /usr/bin/python3 -m venv --system-site-packages ~/arkinfer, and "
            "install arkinfer there",
        )
    if board.jetson is None:
        why = "The artifact's section for the GPU is finished and run by NVIDIA's TensorRT"
        return DeviceError("This machine has no TensorRT", why, _install(board, ""))
    return DeviceError("This board has no TensorRT", "It is a part of JetPack", _install(board, ""))


def _install(board: Board, option: str) -> str:
    """The command: a board's TensorRT comes from NVIDIA's sources, which JetPack has set up."""
    if board.jetson is not None:
        return f"Install it: sudo apt-get install {option}tensorrt python3-libnvinfer"
    return f"Where there is an NVIDIA GPU, install it: {_wheel()}"


def _pinned(board: Board) -> str:
    if board.jetson is None:
        return f"an older TensorRT: {_wheel()}"
    packages = '"tensorrt=10.16*" "python3-libnvinfer=10.16*"'
    return f"an older TensorRT: sudo apt-get install --allow-downgrades {packages}"


def _wheel() -> str:
    return f'pip install "tensorrt-cu13>={_dotted(OLDEST)},<{_dotted(UNKNOWN)}"'


def _dotted(parts: tuple[int, ...]) -> str:
    return ".".join(map(str, parts))


def _capability(sm: int) -> str:
    return f"{sm // 10}.{sm % 10}"
