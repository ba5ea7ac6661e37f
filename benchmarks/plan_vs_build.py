"""Builds a seeded checkpoint of a published shape and compares the plan with what came of it.

    python benchmarks/plan_vs_build.py minicpm4-8b --folder /tmp/big     (needs 21 GB of disk)

Prints the artifact's size, peak resident memory and time of the build, each beside its
prediction. Plan and build run in processes of their own. Needs `arkinfer[build]`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

LIMIT = 3 << 30
"""Bytes of memory that the build of the 8B model may take."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", nargs="?", default="minicpm4-0.5b", help="a preset's name")
    parser.add_argument("--folder", type=Path, default=Path("plan-vs-build"))
    parser.add_argument("--quant", default="int4")
    options = parser.parse_args()

    from arkinfer.testing import make_checkpoint

    checkpoint = options.folder / options.shape
    if not (checkpoint / "config.json").exists():
        make_checkpoint(options.shape, 0, checkpoint)
    arguments = [str(checkpoint), "--quant", options.quant, "--json"]
    plan = run("plan", *arguments)[0]
    began = time.monotonic()
    built, peak = run("build", *arguments, "-o", str(options.folder / f"{options.shape}.ark"))
    seconds = time.monotonic() - began
    print(f"{options.shape}, {options.quant}: predicted, measured, ratio")
    for what, predicted, measured, unit in (
        ("size", plan["artifact_bytes"], built["size"], 1e6),
        ("peak RSS", plan["build_bytes"], peak, 1 << 20),
        ("seconds", plan["build_seconds"], seconds, 1),
    ):
        ratio = measured / predicted
        print(f"  {what:9} {predicted / unit:10,.1f} {measured / unit:10,.1f} {ratio:7.3f}")
    print(f"  {'below' if peak < LIMIT else 'ABOVE'} the limit of {LIMIT >> 20:,} MiB")


def run(*arguments: str) -> tuple[dict[str, float], int]:
    """The JSON of a command, and the peak resident bytes of the largest child so far."""
    done = subprocess.run(
        [sys.executable, "-m", "arkinfer", *arguments], check=True, stdout=subprocess.PIPE
    )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return json.loads(done.stdout), peak


if __name__ == "__main__":
    main()
