"""Tiles that might become tactics, timed on a CUDA device beside those that are: what `gemv.TILES`
was chosen from. Checks nothing: `gpu.py` does, once a tile is one.

    python -m benchmarks.gpu_tiles decode prefill
    python -m benchmarks.gpu_tiles decode prefill --compile kernels.json       (elsewhere, before)
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from itertools import groupby
from pathlib import Path

from arkinfer.errors import ArkError
from arkinfer_trt.kernels.gemv import TILES, AnyTile, DotTile, Gemv, Kernel, Tile
from benchmarks import gpu_timing
from benchmarks.gpu import cases, compiled_together, device

DECODE = (
    *(Tile(1, 1, 4, 256), Tile(1, 1, 8, 256), Tile(1, 1, 8, 512), Tile(1, 2, 8, 512)),
    *(Tile(1, 1, 2, 128), Tile(1, 1, 2, 256), Tile(1, 1, 1, 128), Tile(1, 2, 4, 128)),
    *(Tile(1, 2, 2, 64), Tile(1, 2, 2, 128), Tile(1, 2, 1, 64), Tile(1, 4, 4, 256)),
)
PREFILL = (
    *(DotTile(64, 16, 64, 4, 4), DotTile(64, 32, 64, 3, 4), DotTile(128, 16, 64, 3, 4)),
    *(DotTile(128, 32, 32, 3, 4), DotTile(128, 32, 32, 3, 8), DotTile(128, 32, 64, 2, 8)),
    *(DotTile(256, 16, 32, 3, 8), DotTile(256, 16, 64, 2, 8), DotTile(256, 8, 64, 2, 4)),
)


def main(arguments: list[str] | None = None) -> int:
    """Prints a line for each shape and tile, then the best five of each shape."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_tiles", description=__doc__.splitlines()[0]
    )
    parser.add_argument("what", nargs="+", choices=["decode", "prefill"])
    parser.add_argument("--sm", type=int, help="compile for it; usually 87, as for Orin")
    parser.add_argument("--scheme", default="int4-g128")
    parser.add_argument("--kernels", type=Path, help="file of --compile")
    parser.add_argument("--compile", type=Path, help="no timing: write the kernels there")
    given = parser.parse_args(arguments)
    try:
        found = {s: g for (s, scheme), g in gpu_timing.matrices().items() if scheme == given.scheme}
        wanted: dict[int, tuple[AnyTile, ...]] = {}
        if "decode" in given.what:
            wanted[1] = (*TILES, *DECODE)
        if "prefill" in given.what:
            wanted[gpu_timing.PROMPT] = (*(t for t in TILES if isinstance(t, DotTile)), *PREFILL)
        pairs = [(g, t) for g in found.values() for tiles in wanted.values() for t in tiles]
        if given.compile is not None:
            write(given.compile, pairs, given.sm or 87)
            return 0
        run = device(given.sm, given.kernels)
        run.prepare(pairs)
        timings = [
            timing
            for tokens, tiles in wanted.items()
            for shape, gemv in found.items()
            for timing in gpu_timing.timed(run, shape, gemv, tiles, tokens)
        ]
    except ArkError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for (tokens, shape), group in groupby(timings, lambda t: (t.tokens, t.shape)):
        print(f"best of {shape}, {tokens} tokens", flush=True)
        for timing in sorted(group, key=lambda t: t.seconds)[:5]:
            print(gpu_timing.line(timing), flush=True)
    return 0


def write(path: Path, pairs: list[tuple[Gemv, AnyTile]], sm: int) -> None:
    """Kernels of those pairs and of all that `gpu.py` runs, JSON."""
    pairs += [(gemv, tile) for gemv, _ in cases() for tile in TILES]
    wanted = {field.name for field in fields(Kernel)}
    kernels = [
        {name: value for name, value in vars(kernel).items() if name in wanted}
        for kernel in compiled_together(pairs, sm)
    ]
    path.write_text(json.dumps(kernels) + "\n")
    print(f"{len(kernels)} kernels for sm_{sm} in {path}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
