"""What `arkinfer bench -o` saved: read, and compared with itself."""

from __future__ import annotations

import json
from dataclasses import replace

from arkinfer.bench.compare import Rule, verdict
from arkinfer.bench.saved import compare_saved, read_saved, too_few, unlike, worth_noting
from arkinfer.errors import UsageError
from arkinfer.machine.environment import Environment
from fuzz.files import file, refusing

DICTIONARY = ["prefill", "decode", "seconds", "1e-320", "1e308", "0", "before", "disturbed", "null",
              "packages", "governors", "cpu_quota", "affinity", "threads"]  # fmt: skip
IS_JSON = True
LENGTH = 4096


def seeds() -> list[bytes]:
    """A run with little in it, one with a machine's facts, and one of a single launch."""
    machine = Environment(
        cpu="A", governors=("performance",), affinity=(0, 1), frequency=3100.5, load=0.1,
        fixed_clocks=False, packages=(("numpy", "2.0"),), python="3.11.7",
    )  # fmt: skip
    seeds: list[bytes] = []
    for before, launches in ((Environment(), 6), (machine, 6), (machine, 1)):
        seconds = [[0.1 + n / 1000, 0.11, 0.12] for n in range(launches)]
        facts = {
            "path": "m.ark", "backend": "onnxruntime", "threads": None if launches > 1 else 2,
            "results": [
                {"kind": "prefill", "tokens": 128, "depth": 0, "seconds": seconds},
                {"kind": "decode", "tokens": 16, "depth": 512, "seconds": seconds},
            ],
            "environment": {"before": before.to_json(), "after": {}, "disturbed": ["it was hot"]},
        }  # fmt: skip
        seeds.append(json.dumps(facts).encode())
    return seeds


def one(data: bytes) -> None:
    with refusing(UsageError):
        saved = read_saved(file("saved.json", data))
        unlike(saved, saved)
        worth_noting(saved, replace(saved, before=Environment()))
        found = compare_saved(saved, saved, Rule())
        verdict(found)
        too_few(saved, saved, found)
