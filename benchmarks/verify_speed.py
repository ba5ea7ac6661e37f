"""How fast `arkinfer verify` checks the bytes of a large artifact, against reading it from disk.

    python benchmarks/verify_speed.py --gib 4 --folder /somewhere/on/the/disk

Writes an artifact with the tensor sizes of an 8B model in int4, and in each round drops it from
the page cache before it is read plainly, and again before it is verified. Knows no model.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import numpy as np

from arkinfer.artifact import ArtifactWriter, verify_artifact

FACTS = {
    "model": {"name": "bytes", "architecture": "None"},
    "context": 1, "quant": "int4", "dtype": "fp32", "target": {"name": "cpu"},
    "tokens": {"bos": None, "stop": []},
}  # fmt: skip
LAYER = (1_179_648, 8_388_608, 33_554_432, 33_554_432, 33_554_432)
"""Bytes of the codes of one layer's matrices: heads, output, gate, up, down."""
EMBEDDING = 300_843_008


def write(path: Path, size: int) -> None:
    """An artifact of about `size` bytes of noise."""
    noise = np.random.default_rng(0).integers(0, 256, EMBEDDING, dtype=np.uint8)
    with ArtifactWriter(path) as writer:
        writer.add_tensor("embedding", "uint8", (EMBEDDING,), [noise])
        done, number = EMBEDDING, 0
        while done < size:
            for count in LAYER:
                part = noise[number * 4096 : number * 4096 + count]
                writer.add_tensor(f"t{number}", "uint8", (len(part),), [part])
                done, number = done + len(part), number + 1
        writer.commit(FACTS)


def forget(path: Path) -> None:
    """Drops the file from the page cache."""
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def read(path: Path) -> None:
    """Reads the file as `dd bs=4M` does."""
    buffer = bytearray(4 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=4)
    parser.add_argument("--folder", type=Path, default=Path("."))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    path = options.folder / "verify-speed.ark"
    try:
        write(path, int(options.gib * (1 << 30)))
        size = path.stat().st_size
        found: dict[str, list[float]] = {"disk": [], "verify": [], "verify from memory": []}
        for _ in range(options.rounds):
            for what, run, cold in (
                ("disk", read, True),
                ("verify", verify_artifact, True),
                ("verify from memory", verify_artifact, False),
            ):
                if cold:
                    forget(path)
                began = time.perf_counter()
                run(path)
                found[what].append(size / (time.perf_counter() - began) / 1e9)
    finally:
        path.unlink(missing_ok=True)
    rates = {what: round(statistics.median(all), 2) for what, all in found.items()}
    rates["share of the disk's speed"] = round(rates["verify"] / rates["disk"], 2)
    print(json.dumps({"bytes": size, "GB/s": rates, "load": os.getloadavg()[0]}, indent=2))


if __name__ == "__main__":
    main()
