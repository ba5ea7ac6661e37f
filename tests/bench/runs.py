"""Saved runs of `arkinfer bench`, made up. Knows no test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from arkinfer.machine.environment import Environment

MACHINE = Environment(cpu="A", governors=("performance",), affinity=(0, 1))


def run(speed: float = 1.0, launches: int = 6, **changes: Any) -> dict[str, Any]:
    """Facts of a run; each launch is some thousandths faster than the one before."""
    seconds = [[(1 - 0.001 * n) * t / speed for t in (0.10, 0.11, 0.12)] for n in range(launches)]
    return {
        "path": "m.ark", "digest": "ab", "backend": "onnxruntime", "threads": None,
        "section_bytes": 1 << 20, "launches": launches, "rounds": 3,
        "results": [
            {"kind": "prefill", "tokens": 128, "depth": 0, "seconds": seconds},
            {"kind": "decode", "tokens": 16, "depth": 0, "seconds": seconds},
        ],
        "environment": {
            "before": MACHINE.to_json(), "after": MACHINE.to_json(), "disturbed": [],
        },
        **changes,
    }  # fmt: skip


def save(path: Path, facts: dict[str, Any]) -> Path:
    path.write_text(json.dumps(facts), "utf-8")
    return path
