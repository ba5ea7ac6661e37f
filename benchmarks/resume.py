"""What the cache saves: a build from nothing, one killed half-way and resumed, a repeated one.

    python benchmarks/resume.py minicpm4-0.5b --folder /tmp/resume     (needs 3 GB of disk)

Makes a seeded checkpoint of a published shape. Each build runs in a process of its own; wall time,
processor time and peak resident memory are printed for each, and whether all wrote the same bytes.
Needs `arkinfer[build]`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Run:
    """One build: seconds, of the wall and of processors; peak bytes; what it reported."""

    wall: float
    processor: float
    peak: int
    report: dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", nargs="?", default="minicpm4-0.5b", help="a preset's name")
    parser.add_argument("--folder", type=Path, default=Path("resume"))
    parser.add_argument("--quant", default="int4")
    options = parser.parse_args()

    from arkinfer.testing import make_checkpoint

    checkpoint, cache = options.folder / options.shape, options.folder / "cache"
    if not (checkpoint / "config.json").exists():
        make_checkpoint(options.shape, 0, checkpoint)
    os.environ["ARKINFER_CACHE"] = str(cache)
    output = options.folder / "m.ark"
    command = ["build", str(checkpoint), "--quant", options.quant, "-o", str(output), "--json"]
    digests: dict[str, str] = {}

    def measure(title: str, *more: str, kill_at: int = 0) -> int:
        """Prints a line; the entries of weights that the cache holds then."""
        run = start([*command, *more], cache, kill_at)
        said = f"{run.report['reused']} reused" if run.report else "killed"
        print(
            f"{title:22} {run.wall:7.1f} s, {run.processor:7.1f} s of processors, "
            f"{run.peak / (1 << 20):6,.0f} MiB at most, {said}", flush=True,
        )  # fmt: skip
        for note in run.report.get("notes", ()):
            print(f"  {note}")
        if run.report:
            digests[title] = hashlib.sha256(output.read_bytes()).hexdigest()
        return entries(cache)

    measure("without a cache", "--no-cache")
    shutil.rmtree(cache, ignore_errors=True)
    whole = measure("with an empty cache")
    measure("repeated")
    shutil.rmtree(cache, ignore_errors=True)
    measure("killed half-way", kill_at=whole // 2)
    measure("resumed")
    print("the same bytes" if len(set(digests.values())) == 1 else f"OTHER BYTES: {digests}")


def start(arguments: list[str], cache: Path, kill_at: int) -> Run:
    """Runs a command; kills it when the cache holds so many blocks of weights."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "arkinfer", *arguments],
                               stdout=subprocess.PIPE)  # fmt: skip
    over = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while kill_at and entries(cache) < kill_at and not os.waitid(os.P_PID, process.pid, over):
        time.sleep(0.05)
    if kill_at:
        process.send_signal(signal.SIGKILL)
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    wall = time.monotonic() - began
    if status and not kill_at:
        sys.exit("a build failed")
    report = {} if kill_at else json.loads(text)
    return Run(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, report)


def entries(cache: Path) -> int:
    return sum(1 for _ in (cache / "weights").glob("??/*"))


if __name__ == "__main__":
    main()
