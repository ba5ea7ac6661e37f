"""What a build needs of a machine, from the config alone, and whether that is there.

Knows no graph and no backend.
"""

from __future__ import annotations

import math
import os
import resource
import shutil
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from arkinfer.compiler.weights import BLOCK
from arkinfer.errors import ResourceError
from arkinfer.models.config import ModelConfig

MIB = 1 << 20

BASE = 320 * MIB
"""Resident memory of a build before any weight: Python, torch, and what tracing needs at once."""

PER_LAYER = 3 * MIB
"""Of tracing, per layer."""

ADDRESSES = 800 * MIB
"""Of address space, beyond resident memory, that torch's libraries and threads take."""

CGROUP = Path("/sys/fs/cgroup")
"""Where a container sees its own limits."""

_REMEDY = "Close other programs, raise the limit, or build on another machine"


def build_memory(
    config: ModelConfig, calibration: int = 0, *, calibrates_cache: bool = False
) -> int:
    """Resident bytes of a build at its peak.

    Args:
        config: the model.
        calibration: bytes that a calibrated method takes of them.
        calibrates_cache: whether the scales of the key-value cache are calibrated.
    """
    sizes = [math.prod(shape) for shape in config.tensor_shapes().values()]
    block = min(BLOCK, max(sizes)) * 12  # read, float32, codes and their candidates
    largest = max(_linears(config))
    golden = 4 * largest + 20 * BLOCK  # golden vectors take whole matrices, made by blocks
    widened = 8 * largest if calibrates_cache else 0  # takes whole matrices, and widens them
    return BASE + PER_LAYER * config.num_hidden_layers + max(block, golden, widened, calibration)


def _linears(config: ModelConfig) -> list[int]:
    """Sizes of a layer's matrices, as the fused graph has them."""
    heads = config.num_attention_heads + 2 * config.num_key_value_heads
    return [
        config.hidden_size * heads * config.head_dim,
        config.hidden_size * config.num_attention_heads * config.head_dim,
        config.hidden_size * config.intermediate_size,
    ]


def check_memory(
    config: ModelConfig, path: Path, calibration: int = 0, *, calibrates_cache: bool = False
) -> None:
    """Refuses a build that the system would kill; see `build_memory`.

    Raises:
        ResourceError: memory, or address space, is not there; says how much is missing.
    """
    needed = build_memory(config, calibration, calibrates_cache=calibrates_cache)
    held = psutil.Process().memory_info()
    free = free_memory()
    if needed - held.rss > free:
        raise ResourceError(
            f'There is not enough memory to build "{path}": it takes about {_mib(needed)}',
            f"{_mib(free)} are free, and this process holds {_mib(held.rss)}",
            _REMEDY,
        )
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    addresses = needed + (0 if "torch" in sys.modules else ADDRESSES)
    if limit != resource.RLIM_INFINITY and addresses - held.rss > limit - held.vms:
        raise ResourceError(
            f'There is not enough memory to build "{path}": it takes about {_mib(addresses)} of '
            "address space",
            f"This process may have {_mib(limit)} (ulimit -v)",
            _REMEDY,
        )


def free_memory() -> int:
    """Bytes that processes here may still take: of the machine, swap included, or of a container
    with a limit of its own.
    """
    free = psutil.virtual_memory().available + psutil.swap_memory().free
    with suppress(OSError, ValueError, StopIteration):
        limit = int((CGROUP / "memory.max").read_text())  # "max": no number, no limit
        held = int((CGROUP / "memory.current").read_text())
        for line in (CGROUP / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name in ("inactive_file", "active_file"):
                held -= int(value)  # given back when it is needed
        free = min(free, max(0, limit - held))
    return free


def check_disk(needed: int, path: Path) -> None:
    """Refuses a build that cannot fit before it has cost an hour.

    Raises:
        ResourceError: the disk has not the bytes; says how many are missing.
    """
    free = shutil.disk_usage(os.path.dirname(os.path.realpath(path))).free
    if needed > free:
        raise ResourceError(
            f'There is no room to write "{path}": it takes {needed:,} bytes at least',
            f"{free:,} bytes are free there, {needed - free:,} are missing",
            "Free some space, or name an output file on another disk",
        )


@contextmanager
def out_of_memory(path: Path) -> Generator[None, None, None]:
    """Turns what Python and its libraries raise without memory into one sentence.

    Raises:
        ResourceError: memory ran out.
    """
    try:
        yield
    except (MemoryError, ImportError, OSError, RuntimeError) as error:
        if not _is_memory(error):
            raise
        raise ResourceError(
            f'The memory ran out while building "{path}"',
            f"{_mib(free_memory())} are free now; {' '.join(str(error).split())[:200]}",
            _REMEDY,
        ) from error


def _is_memory(error: BaseException) -> bool:
    """Loaders and thread pools say it in words of their own."""
    words = ("cannot allocate memory", "failed to map segment", "can't start new thread",
             "bad_alloc", "not enough memory", "out of memory")  # fmt: skip
    return isinstance(error, MemoryError) or any(w in str(error).lower() for w in words)


def _mib(count: int) -> str:
    return f"{max(count, 0) / MIB:,.0f} MiB"
