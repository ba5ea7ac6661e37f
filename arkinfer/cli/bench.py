"""`arkinfer bench`: how fast an .ark file runs here, and its memory. Knows no backend."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from arkinfer.cli.options import Backend, Json, Model, Threads
from arkinfer.cli.progress import Progress, announced

if TYPE_CHECKING:
    from arkinfer.runtime.benchmark import Measurement

_LENGTHS, _DEPTHS = (128, 512), (0, 1024)  # the defaults, as far as they fit
_QUICK = 128  # the one length of --quick


def bench(
    file: Model,
    lengths: Annotated[
        str | None, typer.Option(help="Prompt lengths to prefill; default: 128,512.")
    ] = None,
    depths: Annotated[
        str | None, typer.Option(help="Cache depths to decode at; default: 0,1024.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Tokens to decode at each depth.")] = 32,
    rounds: Annotated[
        int | None, typer.Option(help="Rounds that count, 5; one more warms up.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random prompt.")] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help=f"One length ({_QUICK}), depth 0, 3 rounds.")
    ] = False,
    threads: Threads = None,
    backend: Backend = None,
    json: Json = False,
) -> None:
    """Measure prefill and decode in tokens per second, load time and memory.

    Rounds are interleaved; medians are shown with the slowest and the fastest round.

    Example: arkinfer bench model.ark --lengths 512 --depths 0,8192 --threads 2
    """
    import psutil

    from arkinfer.runtime.benchmark import cases, measure
    from arkinfer.runtime.engine import load

    rounds = rounds if rounds is not None else 3 if quick else 5
    process = psutil.Process()
    before = process.memory_info().rss
    start = time.perf_counter()
    with announced(f"Loading {file}"):
        engine = load(file, backend=backend, threads=threads)
    with engine:
        loaded = time.perf_counter() - start
        memory = {"before": before, "loaded": process.memory_info().rss}
        most = engine.context
        wanted = cases(
            _numbers("--lengths", lengths) or _fitting((_QUICK,) if quick else _LENGTHS, most),
            _numbers("--depths", depths) or _fitting((0,) if quick else _DEPTHS, most - tokens),
            tokens,
            most,
        )
        progress = Progress("Measuring")
        try:
            results = measure(
                engine.executable, wanted, rounds=rounds, seed=seed, progress=progress
            )
        finally:
            progress.end()
        facts = {
            "path": file,
            "backend": engine.backend,
            "threads": threads,
            "section_bytes": engine.artifact.section_bytes(engine.backend),
            "load_seconds": loaded,
            "rss": {**memory, "peak": _peak(process.memory_info().rss)},
            "rounds": rounds,
            "results": [_facts(result) for result in results],
        }
    if json:
        from json import dumps

        print(dumps(facts, indent=2))
        return
    _print(facts)


def _facts(result: Measurement) -> dict[str, Any]:
    slowest, fastest = result.spread
    return {
        "kind": result.case.kind,
        "tokens": result.case.tokens,
        "depth": result.case.depth,
        "tokens_per_second": {"median": result.median, "min": slowest, "max": fastest},
        "seconds": result.seconds,
    }


def _numbers(option: str, text: str | None) -> list[int]:
    """The numbers of a comma-separated list; [] when the option was left out."""
    if text is None:
        return []
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        from arkinfer.errors import UsageError

        raise UsageError(
            f'{option} cannot be "{text}"', "", "Give whole numbers with commas: 128,512"
        ) from None


def _fitting(numbers: tuple[int, ...], most: int) -> list[int]:
    """Those of the default numbers that the context holds; at least the smallest, cut to it."""
    return [n for n in numbers if n <= most] or [max(0, min(numbers[0], most))]


def _peak(now: int) -> int:
    """Most bytes that this process ever held; where the system does not say, those of now."""
    try:
        import resource
    except ImportError:  # not a Unix
        return now
    unit = 1 if sys.platform == "darwin" else 1024
    return max(now, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def _print(facts: dict[str, Any]) -> None:
    from arkinfer.cli.table import human, print_table

    rss = facts["rss"]
    threads = facts["threads"] or "as the backend likes"
    print(f"{facts['path']} on {facts['backend']}, threads: {threads}, rounds: {facts['rounds']}")
    print(f"load    {facts['load_seconds']:.2f} s, {human(facts['section_bytes'])} of sections")
    print(f"memory  {human(rss['before'])} before, {human(rss['loaded'])} loaded, "
          f"{human(rss['peak'])} at most (RSS)")  # fmt: skip
    rows = [
        (
            result["kind"],
            f"{result['tokens']:,}",
            f"{result['depth']:,}",
            *(f"{result['tokens_per_second'][key]:,.1f}" for key in ("median", "min", "max")),
        )
        for result in facts["results"]
    ]
    print_table(("", "tokens", "depth", "tok/s", "slowest", "fastest"), rows, left=1)
