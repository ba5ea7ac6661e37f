"""The engines that are compared: one file each, found by its name. Knows no measurement.

A peer is a module with `PACKAGE` (what is imported of it), `HOW` (a line that says in what form it
runs the model), `prepare(checkpoint, folder)`, which makes its model once, and as its main program
a worker of `arkinfer.bench.worker`, given one JSON object: path, threads, capacity, seed.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

PROBE = 8
"""Tokens after which all engines are asked for logits, to see that they run one model."""

KEPT = 512
"""Logits of the probe that are kept, those of the first token ids."""


def names() -> list[str]:
    """All peers, sorted."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


def peer(name: str) -> ModuleType:
    """The module of a peer."""
    return import_module(f"benchmarks.peers.{name}")


def is_installed(name: str) -> bool:
    """Whether what the peer imports is here; it is not imported."""
    return find_spec(peer(name).PACKAGE) is not None


def command(name: str, path: Path, threads: int, capacity: int, seed: int) -> list[str]:
    """What starts a worker of a peer."""
    options = {"path": str(path), "threads": threads, "capacity": capacity, "seed": seed}
    return [sys.executable, "-m", f"benchmarks.peers.{name}", json.dumps(options)]


def options() -> dict[str, Any]:
    """What a worker was given."""
    return json.loads(sys.argv[1])


def token_ids(vocab_size: int, count: int, seed: int) -> list[int]:
    """The tokens that every engine reads, as `arkinfer.bench.cases.TimedExecutable` draws them."""
    return np.random.default_rng(seed).integers(0, vocab_size, count).tolist()
