"""Compiles a kernel for a compute capability, on a host without a GPU. Knows no network.

Triton makes PTX, and the ptxas that comes with it machine code, whose report tells of registers
and spills. Equal requests give equal bytes: no line numbers, which would carry paths, and a cache
of Triton's own that is thrown away.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arkinfer.errors import InternalError, UsageError
from arkinfer_trt.kernels.gemv import (
    OUTPUT,
    SCALARS,
    TENSORS,
    AnyTile,
    DotTile,
    Gemv,
    Kernel,
    kernel_name,
)

SHARED = {80: 163 << 10, 86: 99 << 10, 87: 163 << 10, 89: 99 << 10, 90: 227 << 10}
"""Bytes of shared memory that a block may have, by compute capability: those that we compile for.
Source: CUDA C++ Programming Guide, table of technical specifications."""

TYPES = {"x": "*fp16", "words": "*i32", "scale": "*fp16", "tokens": "i32", "width": "i32"}
TYPES[OUTPUT] = "*fp16"

_ALIGNED = [["tt.divisibility", 16]]
"""What TensorRT promises of the addresses of tensors, and more: 16 bytes."""


@dataclass(frozen=True)
class Compiled(Kernel):
    """A kernel, its machine code and what ptxas says of it.

    Attributes:
        sm: the compute capability, 87 for 8.7.
        cubin: an ELF file for that one only.
        registers: of a thread.
        spilled: bytes that a thread writes to and reads from memory for want of registers.
        stack: bytes of a thread's stack.
    """

    sm: int
    cubin: bytes
    registers: int
    spilled: int
    stack: int


def compiled(gemv: Gemv, tile: AnyTile, sm: int) -> Compiled:
    """Compiles the kernel that multiplies so.

    Raises:
        UsageError: Triton is not installed or told to interpret, or nothing is compiled for that
            capability.
        InternalError: Triton made something else than TensorRT launches.
    """
    if sm not in SHARED:
        known = ", ".join(map(str, SHARED))
        raise UsageError(
            f"Kernels are not compiled for compute capability {sm / 10}",
            "Nothing is known of its limits",
            f"Choose one of {known}.",
        )
    if importlib.util.find_spec("triton") is None:
        raise UsageError(
            "The kernels of TensorRT plug-ins cannot be compiled",
            "Triton is not installed, which exists for Linux only",
            'Run pip install "arkinfer[kernels]".',
        )
    if os.environ.get("TRITON_INTERPRET", "0") != "0":
        raise UsageError(
            "The kernels of TensorRT plug-ins cannot be compiled",
            "The environment sets TRITON_INTERPRET, and Triton interprets them instead",
            "Unset it.",
        )
    name = kernel_name(gemv, tile)
    made = _compile(gemv, tile, sm)
    if made.metadata.global_scratch_size or made.metadata.profile_scratch_size:
        raise InternalError(f"{name} needs scratch memory", "TensorRT has none for such kernels")
    ptx = launchable(made.asm["ptx"], made.metadata.name, name)
    cubin, report = _assembled(ptx, sm)
    return Compiled(name, ptx, tile.threads, made.metadata.shared, sm, cubin, **facts(report))


def facts(report: str) -> dict[str, int]:
    """What `ptxas -v` says of one kernel: registers, spilled and stack, as in `Compiled`.

    Raises:
        InternalError: it says something else.
    """
    patterns = {
        "registers": (r"Used (\d+) registers", 1),
        "spilled": (r"(\d+) bytes spill (?:stores|loads)", 2),
        "stack": (r"(\d+) bytes stack frame", 1),
    }
    found: dict[str, int] = {}
    for name, (pattern, count) in patterns.items():
        numbers = [int(number) for number in re.findall(pattern, report)]
        if len(numbers) != count:
            raise InternalError("The report of ptxas cannot be read", report)
        found[name] = sum(numbers)
    return found


def _compile(gemv: Gemv, tile: AnyTile, sm: int) -> Any:
    """What Triton makes of the kernel: `asm` and `metadata`."""
    import triton
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from arkinfer_trt.kernels.gemm_triton import ark_gemm
    from arkinfer_trt.kernels.gemv_triton import ark_gemv

    constants = tile.constants(gemv)
    pointers = [i for i, kind in enumerate(TYPES.values()) if kind.startswith("*")]
    source = ASTSource(
        fn=ark_gemm if isinstance(tile, DotTile) else ark_gemv,
        signature={**TYPES, **dict.fromkeys(constants, "constexpr")},
        constexprs=constants,
        attrs={(i,): _ALIGNED for i in pointers},
    )
    options = {"num_warps": tile.warps, "enable_fp_fusion": True}
    with tempfile.TemporaryDirectory() as folder, knobs.compilation.scope(), knobs.cache.scope():
        knobs.compilation.disable_line_info = True
        knobs.cache.dir = folder
        return triton.compile(source, target=GPUTarget("cuda", sm, 32), options=options)


def launchable(ptx: str, entry: str, name: str) -> str:
    """The PTX with the parameters that TensorRT passes, and with an entry of that name.

    Triton adds two parameters for scratch memory to every kernel. TensorRT passes inputs, scalars
    and outputs, and the driver would read the missing two from whatever lies behind them.

    Raises:
        InternalError: the parameters are others than expected, or the kernel uses the added ones.
    """
    match = re.search(rf"\.entry {entry}\(\n(.*?)\n\)", ptx, re.DOTALL)
    found = match[1].split(",\n") if match else []
    known = len(TENSORS) + len(SCALARS) + 1
    wanted = [".u64" if kind.startswith("*") else ".u32" for kind in TYPES.values()]
    kinds = [kind for line in found for kind in re.findall(r"\.param (\.\w+)", line)]
    added = [line.rpartition(" ")[2] for line in found[known:]]
    used = [each for each in added if len(re.findall(rf"\b{each}\b", ptx)) != 1]
    if match is None or kinds[:known] != wanted or used:
        raise InternalError(f"{name} has the parameters {kinds}, of which it uses {used}, too")
    kept = ",\n".join(found[:known])
    text = ptx[: match.start(1)] + kept + ptx[match.end(1) :]
    return re.sub(rf"\b{entry}\b", name, text)


def _assembled(ptx: str, sm: int) -> tuple[bytes, str]:
    """Machine code, and the report of ptxas."""
    from triton.backends.nvidia.compiler import get_ptxas

    target = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)
    if target is None:
        raise InternalError("Triton made PTX without a target")
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(ptx)
        command = [get_ptxas(sm).path, "-v", f"--gpu-name={target[1]}", source, "-o", binary]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise InternalError("ptxas refuses a kernel", done.stderr.strip())
        return binary.read_bytes(), done.stderr
