"""Runs a section as a user would, each command in a process of its own: whatever becomes of it is
the answer. Knows no backend.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from arkinfer.doctor.host import Host
from arkinfer.doctor.watch import Watch

PROMPT = "A list is"

COMMANDS: dict[str, tuple[tuple[str, ...], float]] = {
    "prepare": (("prepare",), 7200.0),
    "verify": (("verify",), 3600.0),
    "run": (("run", PROMPT, "--raw", "--temperature", "0", "--max-new-tokens", "32"), 1800.0),
    "bench": (("bench", "--quick"), 3600.0),
}
"""By name: its words, to which file, backend and --json are added, and for how many seconds it may
run."""

OUTPUT = 20
"""Lines of its standard error that are kept, the last ones."""


def trial(
    host: Host, file: str, backend: str, on_step: Callable[[str], object] = lambda what: None
) -> dict[str, Any]:
    """What came of each command, by its name.

    Each has "command", "exit_code" (null: it did not end by itself), "seconds", "problem",
    "answer" (its JSON), "said" (on standard error) and "machine" (see `watch.Watch`). Where the
    section could not be prepared, the others would fail alike: they say "missing" only.

    Args:
        host: this machine.
        file: an .ark file.
        backend: whose section.
        on_step: told what is being done.
    """
    found: dict[str, Any] = {}
    for name, (words, seconds) in COMMANDS.items():
        if name != "prepare" and found["prepare"]["exit_code"] != 0:
            found[name] = {"missing": "the section could not be prepared"}
            continue
        on_step(f"{name} of {backend}")
        command = [words[0], file, *words[1:], "--backend", backend, "--json"]
        found[name] = _run(replace(host, seconds=seconds), command)
    return found


def _run(host: Host, words: list[str]) -> dict[str, Any]:
    start = time.monotonic()
    with Watch(host.root) as watch:
        outcome = host.arkinfer(*words)
    try:
        answer: Any = json.loads(outcome.out)
    except ValueError:
        answer = None
    return {
        "command": " ".join(["arkinfer", *words]),
        "exit_code": outcome.code,
        "seconds": round(time.monotonic() - start, 3),
        "problem": outcome.problem,
        "answer": answer,
        "said": outcome.err.strip().splitlines()[-OUTPUT:],
        "machine": watch.to_json(),
    }
