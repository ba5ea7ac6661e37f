"""A peer for tests: it takes exactly as long as it is told, per token, in a process of its own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from arkinfer.bench.worker import serve
from benchmarks.peers import KEPT, options, token_ids

PACKAGE = "numpy"
HOW = "it sleeps"
PER_TOKEN = 0.02
"""Seconds."""


def prepare(checkpoint: Path, folder: Path) -> Path:
    (folder / "fake").write_text(str(checkpoint))
    return folder / "fake"


class Sleeper:
    def seek(self, depth: int) -> None:
        pass

    def prefill(self, count: int) -> None:
        time.sleep(count * PER_TOKEN)

    def decode(self, count: int) -> None:
        time.sleep(count * PER_TOKEN)


def open_engine() -> tuple[Sleeper, dict[str, Any]]:
    given = options()
    assert Path(given["path"]).name == "fake"
    logits = [float(x) for x in token_ids(1000, KEPT, given["seed"])]
    return Sleeper(), {"load_seconds": 0.0, "logits": logits}


if __name__ == "__main__":
    serve(open_engine)
