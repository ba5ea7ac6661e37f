"""The process that holds one engine and answers a benchmark's questions. Knows no statistics.

It reads a JSON object a line from standard input and answers each with one on what was its standard
output when it began; whatever a library prints goes to standard error. It ends when its input does.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from arkinfer.errors import ArkError, ResourceError

FIRST = 32
"""Tokens of the prompt up to the first token."""


def main() -> None:
    """Serves an artifact; the one argument is a JSON object: see `arkinfer.bench.subject`."""
    options = json.loads(sys.argv[1])
    serve(lambda: open_engine(options))


def serve(open_engine: Callable[[], tuple[Any, dict[str, Any]]]) -> None:
    """Opens an engine, says what it is, and answers until standard input ends.

    Args:
        open_engine: makes the engine (a `Timed`), and the facts to say of it.
    """
    out = _own_output()
    try:
        try:
            engine, facts = open_engine()
            _say(out, {"ready": facts | {"rss": _memory_of(engine)}})
            for line in sys.stdin:
                _say(out, _answer(engine, json.loads(line)))
        except ArkError as error:
            _say(out, {"error": [type(error).__name__, error.what, error.why, error.fix]})
        except MemoryError as error:
            lack = ResourceError("There is not enough memory", str(error), "Close other programs")
            _say(out, {"error": [type(lack).__name__, lack.what, lack.why, lack.fix]})
    except (KeyboardInterrupt, BrokenPipeError):
        pass  # whoever asked is gone, or going


def open_engine(options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Loads an artifact and gives its first token, as a user waits for it."""
    from arkinfer.artifact.pages import in_small_pages
    from arkinfer.bench.cases import TimedExecutable
    from arkinfer.runtime.engine import load
    from arkinfer.runtime.registry import device_of

    before = _memory()["now"]
    start = time.perf_counter()
    engine = load(options["path"], backend=options["backend"], threads=options["threads"])
    loaded = time.perf_counter() - start
    timed = TimedExecutable(engine.executable, options["capacity"], options["seed"])
    if first := min(FIRST, options["capacity"]):
        timed.prefill(first)
    small = device_of(engine.backend) == "cpu" and in_small_pages(Path(options["path"]))
    facts = {
        "load_seconds": loaded, "rss_before": before, "variant": engine.variant,
        "small_pages": small,
    }  # fmt: skip
    return timed, facts


def _answer(engine: Any, question: dict[str, Any]) -> dict[str, Any]:
    from arkinfer.bench.cases import Case, sample

    if question["do"] == "time":
        return {"seconds": sample(engine, Case(**question["case"]))}
    return {"rss": _memory_of(engine)}


def _memory_of(engine: Any) -> dict[str, int]:
    """What the engine says of itself, where it runs in other processes; else this process's."""
    return engine.memory() if hasattr(engine, "memory") else _memory()


def _memory() -> dict[str, int]:
    """Resident bytes of this process, now and at most."""
    import psutil

    now = psutil.Process().memory_info().rss
    return {"now": now, "peak": max(now, _high_water() or _largest() or now)}


def _high_water() -> int:
    """Linux's own; what `getrusage` says there counts the process that started this one, too."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def _largest() -> int:
    try:
        import resource
    except ImportError:  # not a Unix
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _own_output() -> TextIO:
    """Standard output for us alone; the others' goes to standard error."""
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return own


def _say(out: TextIO, answer: dict[str, Any]) -> None:
    print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
