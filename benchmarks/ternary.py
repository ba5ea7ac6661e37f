"""Ternary beside int4 in a published shape: bytes of the files, and how long a token takes.

    python benchmarks/ternary.py minicpm4-0.5b --folder /tmp/ternary     (needs 2 GB of disk)

Makes a seeded checkpoint whose linears are ternary, and builds it as it is with embedding and head
in 4 bits, the same with 8, and in int4. A launch is a fresh process that has both engines decode in
turns, in short rounds. Printed are medians over launches of how much longer int4 takes, by the
clock and by the time of the processors, which other programs disturb less. Memory is measured by
tests/backends/ort/test_memory.py. Needs `arkinfer[build]`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from arkinfer.runtime.contract import State
from arkinfer.runtime.engine import load

TERNARY, BYTES, INT4 = ("ternary", "int4-g128"), ("ternary", "int8-g128"), ("int4", "int4-g128")
LIMITS = {TERNARY: 128 << 20, BYTES: 165 << 20}
"""Bytes that the file of the 0.5B shape may have."""
TOKENS = 8
"""Decoded by one engine before it is the other's turn."""


@dataclass(frozen=True)
class Launch:
    """Medians over the rounds of one: int4's time divided by ternary's, and ternary's tokens/s."""

    clock: float
    processors: float
    speed: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", nargs="?", default="minicpm4-0.5b", help="a preset's name")
    parser.add_argument("--folder", type=Path, default=Path("ternary"))
    parser.add_argument("--launches", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=8)
    given = parser.parse_args()
    files = {what: built(given.shape, given.folder, *what) for what in (TERNARY, BYTES, INT4)}
    for what, path in files.items():
        size = path.stat().st_size
        limit = f", limit {LIMITS[what] >> 20} MiB" if what in LIMITS else ""
        print(f"{what[0]}, embedding {what[1]}: {size:,} bytes, {size / 2**20:.1f} MiB{limit}")
    for threads in (1, 2):
        work = [(files[INT4], files[TERNARY], threads, given.rounds)] * given.launches
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as fresh:
            show(threads, fresh.starmap(launch, work, chunksize=1))


def built(shape: str, folder: Path, quant: str, embedding: str) -> Path:
    """The file of the shape's ternary checkpoint, made once."""
    from arkinfer.testing import make_checkpoint

    checkpoint, path = folder / shape, folder / f"{quant}-{embedding}.ark"
    if not (checkpoint / "model.safetensors").exists():
        make_checkpoint(shape, 0, checkpoint, ternary=1)
    if not path.exists():
        words = ["build", checkpoint, "--quant", quant, "--embedding", embedding, "-o", path]
        command = [sys.executable, "-m", "arkinfer", *map(str, words)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


def launch(a: Path, b: Path, threads: int, rounds: int) -> Launch:
    """Decodes with both in turns; A's time is divided by B's."""
    clocks: list[float] = []
    processors: list[float] = []
    speeds: list[float] = []
    with load(a, threads=threads) as first, load(b, threads=threads) as second:
        states = [e.executable.new_state(TOKENS * (rounds + 1)) for e in (first, second)]
        for turn in range(rounds + 1):
            order = states if turn % 2 else states[::-1]
            found = {id(state): seconds(state) for state in order}
            (clock_a, used_a), (clock_b, used_b) = (found[id(state)] for state in states)
            if turn:  # the first one warms up
                clocks.append(clock_a / clock_b)
                processors.append(used_a / used_b)
                speeds.append(TOKENS / clock_b)
    return Launch(median(clocks), median(processors), median(speeds))


def seconds(state: State) -> tuple[float, float]:
    """Of a few tokens: of the clock, and of all processors."""
    clock, used = time.perf_counter(), time.process_time()
    for _ in range(TOKENS):
        state.step(np.array([5]))
    return time.perf_counter() - clock, time.process_time() - used


def show(threads: int, found: list[Launch]) -> None:
    speed = median(each.speed for each in found)
    print(f"{threads} threads, load {os.getloadavg()[0]:.1f}: {speed:.1f} tokens/s in two bits")
    for what in ("clock", "processors"):
        values = sorted(getattr(each, what) for each in found)
        ends = f"launches from {values[0]:.2f} to {values[-1]:.2f}"
        print(f"  int4 takes {median(values):.2f} times as long by the {what} ({ends})")


if __name__ == "__main__":
    main()
