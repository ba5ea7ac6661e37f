"""Our side of a comparison: an artifact for a backend, and the process that runs it.

Knows no peer and no measurement.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from arkinfer.bench.cases import TimedExecutable
from arkinfer.bench.worker import FIRST, serve
from benchmarks.peers import KEPT, PROBE, options, token_ids

CHUNK = 512
QUANT = "int4-g128"
HOW = "int4 in blocks of 128, head and embedding too, float32 caches"


def checkpoint(shape: str, folder: Path) -> Path:
    """A seeded checkpoint of a published shape, without the scalings of the MiniCPM family, which
    not every peer knows; plain Llama is what all of them run."""
    from arkinfer.testing import make_checkpoint, preset

    path = folder / "checkpoint"
    if not (path / "config.json").exists():
        raw = preset(shape, architectures=["LlamaForCausalLM"], rope_scaling=None)
        for key in ("scale_emb", "scale_depth", "dim_model_base"):
            raw.pop(key, None)
        path.mkdir(parents=True, exist_ok=True)
        make_checkpoint({**raw, "tie_word_embeddings": True}, seed=0, path=path)
        config = json.loads((path / "config.json").read_text())
        config.update(model_type="llama", rope_theta=10000.0, attention_bias=False)
        (path / "config.json").write_text(json.dumps(config))
    return path


def prepare(source: Path, folder: Path, backend: str) -> Path:
    """The artifact of the checkpoint for a backend, built once."""
    import arkinfer

    path = folder / f"{backend}.ark"
    if not path.exists():
        arkinfer.build(
            source, quant=QUANT, embedding=QUANT, backend=backend, output=path, chunk=CHUNK
        )
    return path


def command(path: Path, backend: str, threads: int, capacity: int, seed: int) -> list[str]:
    """What starts a worker."""
    given = {"path": str(path), "backend": backend, "threads": threads, "capacity": capacity,
             "seed": seed}  # fmt: skip
    return [sys.executable, "-m", "benchmarks.ours", json.dumps(given)]


def open_engine() -> tuple[TimedExecutable, dict[str, Any]]:
    """What `arkinfer bench` runs, and logits that tell whether a peer runs the same model."""
    from arkinfer.runtime.engine import load

    given = options()
    began = time.perf_counter()
    engine = load(given["path"], backend=given["backend"], threads=given["threads"])
    loaded = time.perf_counter() - began
    timed = TimedExecutable(engine.executable, given["capacity"], given["seed"])
    timed.prefill(min(FIRST, given["capacity"]))
    ids = token_ids(engine.vocab_size, given["capacity"], given["seed"])[:PROBE]
    output = engine.executable.new_state(len(ids)).step(np.asarray(ids))
    return timed, {"load_seconds": loaded, "logits": output.logits[-1][:KEPT].tolist()}


if __name__ == "__main__":
    serve(open_engine)
