"""A peer for tests: it takes exactly as long as it is told, per token, in a process of its own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.peers import KEPT, Form, serve_peer, token_ids

PACKAGE = "numpy"
INSTALL = "numpy"
FORMS = {
    "fake": Form("int4", "it sleeps", {"broken": False}),
    "broken": Form("int4", "it does not even start", {"broken": True}),
}
PER_TOKEN = 0.02
"""Seconds."""


def prepare(checkpoint: Path, folder: Path, options: dict[str, Any]) -> Path:
    print("making it")  # as tools do that print where they go
    (folder / "fake").write_text(str(checkpoint))
    return folder / "fake"


class Sleeper:
    def seek(self, depth: int) -> None:
        pass

    def prefill(self, count: int) -> None:
        time.sleep(count * PER_TOKEN)

    def decode(self, count: int) -> float:
        """It says that it takes as long, and does not sleep: its own clock counts."""
        return count * PER_TOKEN


def open_engine(given: dict[str, Any]) -> tuple[Sleeper, dict[str, Any]]:
    assert Path(given["path"]).name == "fake"
    if given["broken"]:
        raise SystemExit(7)
    logits = [float(x) for x in token_ids(1000, KEPT, given["seed"])]
    return Sleeper(), {"load_seconds": 0.0, "filled": "nothing", "logits": logits}


if __name__ == "__main__":
    serve_peer(prepare, open_engine)
