"""`arkinfer profile`: where the time of a step goes, op by op. Knows no backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from arkinfer.cli.options import Backend, Device, Json, Model, Threads
from arkinfer.cli.preparing import Loading
from arkinfer.cli.progress import Progress

if TYPE_CHECKING:
    from arkinfer.profile.breakdown import By, Row
    from arkinfer.profile.measure import Profile
    from arkinfer.profile.roofline import Peaks

SHARE = 0.9
"""Of the kernels' time: the rows that hold it are shown."""


def profile(
    file: Model,
    depth: Annotated[int, typer.Option(help="Tokens in the cache before.")] = 0,
    prompt_tokens: Annotated[
        int | None,
        typer.Option(help="Profile a prompt of so many tokens; default: one token.", min=1),
    ] = None,
    by: Annotated[str, typer.Option(help="Group by path, op, layer or kernel.")] = "path",
    every: Annotated[
        bool, typer.Option("--all", help="Show all rows, not those that hold 90 % of the time.")
    ] = False,
    rounds: Annotated[
        int | None, typer.Option(help="Rounds; default: as many as a second holds, 5 to 200.")
    ] = None,
    html: Annotated[str | None, typer.Option(help="Write a page with charts, too.")] = None,
    threads: Threads = None,
    backend: Backend = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Show what each op of a step takes, and how near it comes to what this machine can do.

    Example: arkinfer profile model.ark --depth 1024 --threads 2
    """
    from arkinfer.artifact import open_artifact
    from arkinfer.machine.cores import usable_cores
    from arkinfer.profile.breakdown import LEVELS
    from arkinfer.profile.measure import measure, read_section
    from arkinfer.profile.roofline import measure_peaks
    from arkinfer.runtime.demo import located
    from arkinfer.runtime.registry import choose_section, open_section

    level = _level(by, LEVELS)
    _check_threads(threads)
    kind = "decode" if prompt_tokens is None else "prefill"
    threads = threads or len(usable_cores())
    with open_artifact(located(file)) as artifact:
        section = choose_section(artifact, backend, device)
        listing, stored = read_section(artifact, section)
        with Loading(file) as loading:
            options = loading.options(threads=threads, observe=True)
            name, executable = open_section(artifact, section.backend, options)
        progress = Progress("Profiling")
        try:
            result = measure(
                executable, listing, stored, depth=depth, tokens=prompt_tokens or 1,
                rounds=rounds, progress=progress,
            )  # fmt: skip
        finally:
            progress.end()
            executable.close()
    peaks = measure_peaks(threads)
    facts = {
        "path": file,
        "backend": name,
        "threads": threads,
        "kind": kind,
        "depth": depth,
        "tokens": prompt_tokens or 1,
        "rounds": len(result.rounds),
        **describe(result, peaks, level),
    }
    if html is not None:
        from arkinfer.cli.profile_page import write

        write(html, facts, result, peaks)
    if json:
        from json import dumps

        print(dumps(facts, indent=2))
        return
    _print(facts, every=every)


def _level(by: str, levels: tuple[By, ...]) -> By:
    for level in levels:
        if by == level:
            return level
    from arkinfer.errors import UsageError, nearest

    raise UsageError(f'--by cannot be "{by}"', fix=nearest(by, levels))


def _check_threads(threads: int | None) -> None:
    if threads is not None and threads < 1:
        from arkinfer.errors import UsageError

        raise UsageError(f"threads cannot be {threads}", fix="Give at least 1")


def describe(profile: Profile, peaks: Peaks, by: By) -> dict[str, Any]:
    """What `--json` prints of a profile; seconds, bytes and operations per second."""
    from arkinfer.profile.breakdown import breakdown, covering

    rows = breakdown(profile, by)
    return {
        "step": {
            "seconds": profile.step,
            "min": min(profile.rounds),
            "max": max(profile.rounds),
        },
        "kernels_seconds": profile.in_kernels,
        "outside_seconds": profile.outside,
        "profiler": {
            "kernels_seconds": profile.stated,
            "added_seconds": profile.measuring,
            "expected_seconds": profile.expected,
        },
        "agreement": profile.agreement,
        "peaks": {"bandwidth": peaks.bandwidth, "flops": peaks.flops},
        "by": by,
        "covering": {"share": SHARE, "rows": len(covering(rows, SHARE))},
        "rows": [_facts(row, profile, peaks) for row in rows],
    }


def _facts(row: Row, profile: Profile, peaks: Peaks) -> dict[str, Any]:
    from arkinfer.profile.breakdown import rates_of

    rates = rates_of(row, peaks)
    return {
        "path": row.path,
        "op": row.op,
        "kernels": list(row.kernels),
        "count": row.count,
        "seconds": row.seconds,
        "share": row.seconds / (profile.in_kernels + profile.outside),
        "bytes": row.cost.bytes if row.cost else None,
        "flops": row.cost.flops if row.cost else None,
        "bytes_per_second": rates.bandwidth if rates else None,
        "of_bandwidth": rates.of_bandwidth if rates else None,
        "flops_per_second": rates.flops if rates else None,
        "of_float32": rates.of_flops if rates else None,
        "bound": rates.bound if rates else None,
    }


def _print(facts: dict[str, Any], *, every: bool) -> None:
    from arkinfer.cli.table import clean, print_table

    profiler = facts["profiler"]
    step, total = facts["step"], facts["kernels_seconds"] + facts["outside_seconds"]
    print(clean(f"{facts['path']} on {facts['backend']}, threads: {facts['threads']}, "
                f"rounds: {facts['rounds']}"))  # fmt: skip
    print(f"step      {what(facts)}: {ms(step['seconds'])} without the profiler "
          f"({ms(step['min'])} to {ms(step['max'])})")  # fmt: skip
    print(f"profile   {ms(facts['kernels_seconds'])} in kernels, "
          f"{ms(facts['outside_seconds'])} outside of them: together "
          f"{100 * facts['agreement']:.1f} % of the step")  # fmt: skip
    if profiler["added_seconds"]:
        print(f"profiler  says {ms(profiler['kernels_seconds'])} in kernels; "
              f"{ms(profiler['added_seconds'])} that it takes itself are off "
              f"(expected: {ms(profiler['expected_seconds'])})")  # fmt: skip
    print(f"machine   {peaks_text(facts['peaks'])}")
    shown = facts["rows"]
    if not every:
        shown = longest(facts)
    named = {"op": ("op",), "layer": ("torch path",)}.get(facts["by"], ("torch path", "op"))
    keys = [{"torch path": "path", "op": "op"}[name] for name in named]
    blank, empty, left = ("",) * len(named), ("",) * (len(FIGURES) - 2), len(named)
    rows = [(*(row[key] for key in keys), f"{row['count']:,}", *figures(row)) for row in shown]
    if len(shown) < len(facts["rows"]):
        rest = [row for row in facts["rows"] if row not in shown]
        seconds = sum(row["seconds"] for row in rest)
        rows.append((f"{len(rest)} more (--all)", *blank, *_time(seconds, seconds / total), *empty))
    seconds = facts["outside_seconds"]
    rows.append(("outside of kernels", *blank, *_time(seconds, seconds / total), *empty))
    print_table((*named, "kernels", *FIGURES), rows, left=left)


def what(facts: dict[str, Any]) -> str:
    """The step that was profiled."""
    number = facts["tokens"]
    return f"{number:,} token{'s' if number > 1 else ''} at depth {facts['depth']:,}"


def longest(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that hold most of the kernels' time, longest first."""
    rows = sorted(facts["rows"], key=lambda row: -row["seconds"])
    return rows[: facts["covering"]["rows"]]


FIGURES = ("ms", "share", "MB", "GB/s", "of memory", "GFLOP/s", "of float32")


def figures(row: dict[str, Any]) -> tuple[str, ...]:
    """What `FIGURES` names, of a row of `describe`."""
    return (
        *_time(row["seconds"], row["share"]),
        _scaled(row["bytes"], 1e6, 2),
        _scaled(row["bytes_per_second"], 1e9, 1),
        _percent(row["of_bandwidth"]),
        _scaled(row["flops_per_second"], 1e9, 1),
        _percent(row["of_float32"]),
    )


def _scaled(value: float | None, unit: float, digits: int) -> str:
    return "" if value is None else f"{value / unit:,.{digits}f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def peaks_text(peaks: dict[str, Any]) -> str:
    """What the machine can do at most."""
    bandwidth, flops = peaks["bandwidth"], peaks["flops"]
    if bandwidth is None or flops is None:
        return "not measured"
    return (
        f"reads {bandwidth / 1e9:,.1f} GB/s, multiplies {flops / 1e9:,.0f} GFLOP/s in float32 "
        "(measured now, by numpy)"
    )


def _time(seconds: float, share: float) -> tuple[str, str]:
    return f"{1e3 * seconds:,.3f}", f"{100 * share:.1f} %"


def ms(seconds: float) -> str:
    """Milliseconds for people."""
    return f"{1e3 * seconds:,.3g} ms" if seconds < 1 else f"{1e3 * seconds:,.0f} ms"
