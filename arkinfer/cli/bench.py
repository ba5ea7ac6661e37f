"""`arkinfer bench`: how fast an .ark file runs here, and its memory. Knows no backend.

`arkinfer bench compare` is a command of its own in `arkinfer.cli.bench_compare`; everything else
after `bench` is about one file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from arkinfer.cli.bench_compare import compare
from arkinfer.cli.bench_output import check_places, during, numbers, print_json, print_machine, save
from arkinfer.cli.options import Backend, Device, Json, Model, Threads
from arkinfer.cli.preparing import SMALL_PAGES, prepare_first, section_for
from arkinfer.cli.progress import Progress

_LENGTHS, _DEPTHS = (128, 512), (0, 1024)  # the defaults, as far as they fit
_CURVES = (tuple(32 << n for n in range(11)), (0, *(512 << n for n in range(7))))  # --curve
_QUICK = 128  # the one length of --quick


class _Bench(TyperGroup):
    """`bench FILE` and `bench compare A B`: without the word, the first one is meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # of typer's own click, or click
        return super().parse_args(ctx, args if args[:1] == ["compare"] else ["file", *args])


class _File(TyperCommand):
    """Says how it is called: without a name of its own."""

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        formatter.write_usage(ctx.parent.command_path, " ".join(self.collect_usage_pieces(ctx)))


bench = typer.Typer(cls=_Bench, rich_markup_mode=None, add_completion=False)


bench.command("compare")(compare)


@bench.command(
    "file",
    cls=_File,
    epilog="To compare two files or two saved runs: arkinfer bench compare --help",
)
def one(
    file: Model,
    lengths: Annotated[
        str | None, typer.Option(help="Prompt lengths to prefill; default: 128,512.")
    ] = None,
    depths: Annotated[
        str | None, typer.Option(help="Cache depths to decode at; default: 0,1024.")
    ] = None,
    curve: Annotated[
        bool, typer.Option("--curve", help="Lengths and depths that double, as far as they fit.")
    ] = False,
    tokens: Annotated[int, typer.Option(help="Tokens to decode at each depth.")] = 32,
    launches: Annotated[
        int | None, typer.Option(help="Fresh processes, one after the other; default: 3.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of each that count; one more warms up.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the random prompt.")] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help=f"One length ({_QUICK}), depth 0, one launch.")
    ] = False,
    threads: Threads = None,
    backend: Backend = None,
    device: Device = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Save the JSON here, to compare later.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with charts here.")] = None,
    json: Json = False,
) -> None:
    """Measure prefill and decode in tokens per second, first token, load time and memory.

    Everything runs in fresh processes; rounds are interleaved.

    Example: arkinfer bench model.ark --lengths 512 --depths 0,8192 --threads 2
    """
    from arkinfer.bench.cases import cases
    from arkinfer.bench.measure import measure
    from arkinfer.bench.subject import subject
    from arkinfer.machine.environment import read_environment

    check_places(output, html)
    chosen = subject(file, section_for(file, backend, device), threads)
    ranges = ((_QUICK,), (0,)) if quick else (_LENGTHS, _DEPTHS)
    ranges = _CURVES if curve else ranges
    wanted = cases(
        numbers("--lengths", lengths) or fitting(ranges[0], chosen.context),
        numbers("--depths", depths) or fitting(ranges[1], chosen.context - tokens),
        tokens,
        chosen.context,
    )
    prepare_first(file, chosen.backend)
    before = read_environment()
    progress = Progress(f"Measuring {file}")
    try:
        found = measure(
            chosen, wanted, launches=launches if launches is not None else 1 if quick else 3,
            rounds=rounds, seed=seed, progress=progress,
        )  # fmt: skip
    finally:
        progress.end()
    facts = {**chosen.to_json(), **found.to_json(), **during(before, read_environment())}
    save(facts, output, html, page="run")
    if json:
        print_json(facts)
    else:
        _print(facts)


def fitting(numbers: tuple[int, ...], most: int) -> list[int]:
    """Those of the default numbers that the context holds; at least the smallest, cut to it."""
    return [n for n in numbers if n <= most] or [max(0, min(numbers[0], most))]


def _print(facts: dict[str, Any]) -> None:
    from arkinfer.cli.table import human, print_table

    rss, first, load = facts["rss"], facts["first_token"], facts["load"]
    threads = facts["threads"] or "as the backend likes"
    kernels = f", kernels for {facts['variant']}" if facts["variant"] else ""
    print(f"{facts['path']} on {facts['backend']}{kernels}, threads: {threads}, "
          f"launches: {facts['launches']} of {facts['rounds']} rounds")  # fmt: skip
    print(
        f"first   {_seconds(first)} from start to first token, prompt of {first['tokens']} tokens"
    )
    print(f"load    {_seconds(load)}, {human(facts['section_bytes'])} of sections")
    print(f"memory  {human(rss['before'])} before, {human(rss['loaded'])} loaded, "
          f"{human(rss['peak'])} at most (RSS)")  # fmt: skip
    if facts["small_pages"]:
        print(f"pages   {SMALL_PAGES.format(file=facts['path'])}")
    print_machine(facts["environment"])
    keys = ("median", "lower_quartile", "upper_quartile", "min", "max")
    rows = [
        (
            result["kind"],
            f"{result['tokens']:,}",
            f"{result['depth']:,}",
            *(f"{result['tokens_per_second'][key]:,.1f}" for key in keys),
        )
        for result in facts["results"]
    ]
    header = ("", "tokens", "depth", "tok/s", "low quarter", "high quarter", "slowest", "fastest")
    print_table(header, rows, left=1)


def _seconds(summary: dict[str, float]) -> str:
    """A median, and the ends where there are several."""
    ends = f" ({summary['min']:.2f} … {summary['max']:.2f})"
    return f"{summary['median']:.2f} s{ends if summary['min'] < summary['max'] else ''}"
