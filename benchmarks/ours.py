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
from benchmarks.peers import KEPT, PROBE, Weights, token_ids

CHUNK = 512
CONTEXT = 1 << 16
"""Tokens that the checkpoints are made for: deeper than any case."""
HEAD = "int4-g128"
QUANT = {"int4": "int4-g128", "ternary": "ternary"}
HOW = {"int4": "int4 in groups of 128, head and embedding too", "ternary": "two bits, int4 head"}


def checkpoint(shape: str, weights: Weights, folder: Path) -> Path:
    """A seeded checkpoint of a published shape, without the scalings of the MiniCPM family, which
    not every peer knows; plain Llama is what all of them run."""
    from arkinfer.testing import make_checkpoint, preset

    path = folder / f"checkpoint-{'ternary' if weights == 'ternary' else 'dense'}"
    if not (path / "config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        raw = preset(shape, architectures=["LlamaForCausalLM"], rope_scaling=None)
        for key in ("scale_emb", "scale_depth", "dim_model_base"):
            raw.pop(key, None)
        raw.update(tie_word_embeddings=True, max_position_embeddings=CONTEXT)
        partial = folder / f"{path.name}.part"
        make_checkpoint(raw, seed=0, path=partial, ternary=int(weights == "ternary"))
        config = json.loads((partial / "config.json").read_text())
        config.update(model_type="llama", rope_theta=10000.0, attention_bias=False)
        (partial / "config.json").write_text(json.dumps(config))
        partial.rename(path)
    return path


def prepare(source: Path, folder: Path, backend: str, weights: Weights) -> Path:
    """The artifact of the checkpoint for a backend, built anew: our code may have changed."""
    import arkinfer

    path = folder / f"{backend}-{weights}.ark"
    arkinfer.build(
        source, quant=QUANT[weights], embedding=HEAD, backend=backend, output=path, chunk=CHUNK
    )
    return path


def command(path: Path, backend: str, threads: int, capacity: int) -> list[str]:
    """What starts a worker."""
    given = {"path": str(path), "backend": backend, "threads": threads, "capacity": capacity,
             "seed": 0}  # fmt: skip
    return [sys.executable, "-m", "benchmarks.ours", json.dumps(given)]


def open_engine() -> tuple[TimedExecutable, dict[str, Any]]:
    """What `arkinfer bench` runs, and logits that tell whether a peer runs the same model."""
    from arkinfer.runtime.engine import load

    given = json.loads(sys.argv[1])
    began = time.perf_counter()
    engine = load(given["path"], backend=given["backend"], threads=given["threads"])
    loaded = time.perf_counter() - began
    timed = TimedExecutable(engine.executable, given["capacity"], given["seed"])
    timed.prefill(min(FIRST, given["capacity"]))
    ids = token_ids(engine.vocab_size, PROBE, given["seed"])
    output = engine.executable.new_state(len(ids)).step(np.asarray(ids))
    logits = output.logits[-1][:KEPT].tolist()
    return timed, {"load_seconds": loaded, "filled": "prefilled", "logits": logits}


if __name__ == "__main__":
    serve(open_engine)
