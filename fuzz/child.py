"""Runs one target under atheris until the time is over or something breaks.

Started by `python -m fuzz`, which reads what libFuzzer prints. Arguments: the reader's name, then
libFuzzer's.
"""

from __future__ import annotations

import os
import sys
from random import Random

import atheris

_INSTRUMENTED = [
    "arkinfer",
    "arkinfer_ort",
    "arkinfer_tvm",
    "jinja2",
    "pickletools",
    "tomllib",
    "zipfile",
]

with atheris.instrument_imports(include=_INSTRUMENTED):
    from fuzz import structure
    from fuzz.targets import load

    target = load(sys.argv[1])
    for seed in target.seeds():  # what is imported late is instrumented, too
        target.one(seed)

words = getattr(target, "DICTIONARY", [])


def mutate(data: bytes, most: int, seed: int) -> bytes:
    """libFuzzer's own mutations, and every other time one that knows JSON."""
    changed = structure.mutate(data, Random(seed), words) if seed % 2 else None
    if changed is None or len(changed) > most:
        return atheris.Mutate(data, most)
    return changed


def one(data: bytes) -> None:
    """The target; breaks on request, for the test that such is noticed."""
    planted = os.environ.get("ARKINFER_FUZZ_BREAK", "").encode()
    assert not planted or planted not in data, "planted"
    target.one(data)


options = {"custom_mutator": mutate} if getattr(target, "IS_JSON", False) else {}
atheris.Setup([sys.argv[0], *sys.argv[2:]], one, **options)
atheris.Fuzz()
