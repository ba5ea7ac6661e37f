"""Compiles the kernels of usual matrices, and prints what they need. Needs `arkinfer[kernels]`, and
no GPU.

    python -m arkinfer_trt.kernels                                 everything, in some minutes
    python -m arkinfer_trt.kernels int4-g128:4096 --sm 87 --tactic 1
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import product

from arkinfer.errors import ArkError, UsageError
from arkinfer.packing import parse_scheme
from arkinfer_trt.kernels.compiled import SHARED, Compiled, compiled
from arkinfer_trt.kernels.gemv import MOST_SHARED, AnyTile, Gemv, tactics

USUAL = (
    *("int4-g128:1024", "int4-g128:4096", "int4-g128:16384"),
    *("int4-g32:4096", "int4-g64:4096", "int4-row:4096"),
    *("int2-g128:4096", "int2-row:4096", "int2-row:16384", "int8-g128:1024", "int8-g128:4096"),
)
"""Schemes and inputs of MiniCPM4-0.5B and -8B, and every group that methods write."""

TARGETS = (87, 89, 90)
"""Orin, the RTX 4090 and what tests on a GPU usually run on."""

HEADER = f"{'kernel':40} {'sm':>4} {'threads':>8} {'registers':>10} {'shared':>7} {'spilled':>8}"


def main(arguments: list[str] | None = None) -> int:
    """Prints a line for each kernel; 1 if one spills or does not fit, 2 if asked for nonsense."""
    parser = argparse.ArgumentParser(
        prog="python -m arkinfer_trt.kernels",
        description="Compiles the kernels of usual matrices, and prints what they need.",
    )
    parser.add_argument("matrices", nargs="*", help="scheme:inputs, such as int4-g128:4096")
    parser.add_argument("--sm", type=int, action="append", help="compute capability, such as 87")
    parser.add_argument("--tactic", type=int, help="only that one of TensorRT's choices")
    given = parser.parse_args(arguments)
    failed = False
    try:
        wanted = _wanted(given.matrices or USUAL, given.tactic)
        for number, ((gemv, tile), sm) in enumerate(product(wanted, given.sm or TARGETS)):
            kernel = compiled(gemv, tile, sm)
            if not number:
                print(HEADER, flush=True)
            wrong = faults(kernel)
            failed = failed or bool(wrong)
            facts = f"{kernel.threads:8} {kernel.registers:10} {kernel.shared:7} {kernel.spilled:8}"
            print(f"{kernel.name:40} {kernel.sm:4} {facts}  {wrong}".rstrip(), flush=True)
    except ArkError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return int(failed)


def _wanted(matrices: Sequence[str], tactic: int | None) -> list[tuple[Gemv, AnyTile]]:
    """Products and tiles that were asked for."""
    found: list[tuple[Gemv, AnyTile]] = []
    for matrix in matrices:
        scheme, _, inputs = matrix.partition(":")
        if not inputs.isdigit():
            raise UsageError(f'"{matrix}" is no matrix', "", "Write one like int4-g128:4096.")
        gemv = Gemv.of(parse_scheme(scheme), (4096, int(inputs)))
        known = tactics(gemv)
        if tactic is not None and tactic not in known:
            raise UsageError(
                f"{matrix} has no tactic {tactic}",
                "A tactic is left out where it has more threads than a row has words",
                f"Choose one of {', '.join(map(str, known))}.",
            )
        tiles = known.values() if tactic is None else [known[tactic]]
        found += [(gemv, tile) for tile in tiles]
    return found


def faults(kernel: Compiled) -> str:
    """What is wrong with it, in words; empty if nothing is."""
    wrong: list[str] = []
    if kernel.spilled or kernel.stack:
        wrong.append("spills registers")
    most = min(MOST_SHARED, SHARED[kernel.sm])
    if kernel.shared > most:
        wrong.append(f"needs more than {most >> 10} KiB of shared memory")
    return ", ".join(wrong)


if __name__ == "__main__":
    sys.exit(main())
