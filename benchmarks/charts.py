"""Draws what the harness measured, and writes its tables into a page.

    python -m benchmarks.charts compare.json --into docs/performance.md --folder docs/charts

The same results give the same bytes. Between two marks, the page is replaced; the rest of it stays.
Knows no measurement.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from arkinfer.bench.cases import Case
from arkinfer.errors import ArkError, UsageError
from arkinfer.report import Bar, Series, bar_chart, line_chart
from benchmarks.results import Contender, Results, Run, read_results, tables

BEGIN, END = "<!-- charts begin -->", "<!-- charts end -->"
_SPACE = 'xmlns="http://www.w3.org/2000/svg" '
"""What a picture needs outside of an HTML page."""


def main(arguments: list[str] | None = None) -> int:
    """Reads results, writes pictures and tables; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.charts",
                                     description=(__doc__ or "").splitlines()[0])  # fmt: skip
    parser.add_argument("results", type=Path, nargs="+", help="what the harness wrote with --json")
    parser.add_argument("--folder", type=Path, default=Path("docs/charts"), help="of the pictures")
    parser.add_argument("--into", type=Path, metavar="PAGE", help="a page with the two marks")
    parser.add_argument("--note", default="", help="a sentence about the run, above the tables")
    given = parser.parse_args(arguments)
    try:
        results = [read_results(path) for path in given.results]
        page = None if given.into is None else _page(given.into)
        pictures = [charts(found) for found in results]
        drawn = _named_once(pictures)
        given.folder.mkdir(parents=True, exist_ok=True)
        for name, picture in drawn.items():
            (given.folder / name).write_text(picture, "utf-8")
        if page is not None:
            before, after = page
            place = Path(os.path.relpath(given.folder, given.into.parent)).as_posix()
            middle = "\n".join(
                line
                for found, made in zip(results, pictures, strict=True)
                for line in section(found, [f"{place}/{name}" for name in made], given.note)
            )
            given.into.write_text(f"{before}{BEGIN}\n{middle}\n{END}{after}", "utf-8")
    except ArkError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{len(drawn)} charts in {given.folder}")
    return 0


def _named_once(pictures: Sequence[dict[str, str]]) -> dict[str, str]:
    """Those of all runs.

    Raises:
        UsageError: two runs measured the same.
    """
    found: dict[str, str] = {}
    for name, picture in (pair for made in pictures for pair in made.items()):
        if name in found:
            raise UsageError(
                f'Two of the runs have the chart "{name}"',
                "They measured the same case",
                "Draw them into different folders",
            )
        found[name] = picture
    return found


def _page(path: Path) -> tuple[str, str]:
    """What stands before and after the marks.

    Raises:
        UsageError: there is no such page, or it has not both marks, once.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise UsageError(f'"{path}" cannot be read', error.strerror or "", "Check the path") from (
            error
        )
    before, begun, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (begun and ended) or BEGIN in after or END in before + after:
        raise UsageError(f'"{path}" has no place for charts', "It lacks the two marks, or has more",
                         f"Write a line {BEGIN} and one {END}")  # fmt: skip
    return before, after


def charts(found: Results) -> dict[str, str]:
    """Pictures by file name: bars for each case, and lines of decoding over the depth."""
    made: dict[str, str] = {}
    for run in found.runs:
        for weights in ("int4", "ternary"):
            reference = found.reference(weights)
            if reference is None or reference.name not in run.facts:
                continue
            group = [c for c in found.group(weights) if c.name in run.facts]
            what = f"{weights}, {run.threads} thread{'s' * (run.threads != 1)}"
            for case in _timed(run, "prefill") + _timed(run, "decode"):
                size = case.tokens if case.kind == "prefill" else case.depth
                name = f"{case.kind}-{size}-{weights}-{run.threads}.svg"
                made[name] = _standing(_bars(run, case, group, f"{case.name}, {what}"))
            if len(_timed(run, "decode")) > 1:
                name = f"decode-by-depth-{weights}-{run.threads}.svg"
                made[name] = _standing(_lines(run, group, f"decode by depth, {what}"))
    return made


def _timed(run: Run, kind: str) -> list[Case]:
    found = [case for case in run.seconds if case.kind == kind]
    return sorted(found, key=lambda case: (case.depth, case.tokens))


def _bars(run: Run, case: Case, group: Sequence[Contender], title: str) -> str:
    """Bars with whiskers over the quartiles of the rounds, and the machine's limit across them."""
    timed = [c for c in group if c.name in run.seconds[case]]
    limit = next((run.speed(c.name, case) for c in timed if c.role == "limit"), None)
    bars: list[Bar] = []
    for contender in timed:
        if contender.role == "limit":
            continue
        low, middle, high = run.speeds(contender.name, case)
        note = "" if limit is None else f"{100 * middle / limit:.0f} % of the limit"
        bars.append(Bar(contender.name, middle, note, low, high))
    bars.sort(key=lambda bar: (-bar.value, bar.label))
    return bar_chart(title, "tok/s", bars, reference=limit)


def _lines(run: Run, group: Sequence[Contender], title: str) -> str:
    """A line of each engine, with a band over the quartiles of the rounds."""
    series: list[Series] = []
    for contender in group:
        points = [(float(case.depth), run.speeds(contender.name, case))
                  for case in _timed(run, "decode")
                  if contender.name in run.seconds[case]]  # fmt: skip
        series.append(
            Series(
                contender.name,
                [(depth, middle) for depth, (_, middle, _) in points],
                [low for _, (low, _, _) in points],
                [high for _, (_, _, high) in points],
            )
        )
    return line_chart(title, "tokens before", "tok/s", series, log_y=True)


def _standing(picture: str) -> str:
    """A picture that is a file of its own."""
    return picture.replace("<svg ", f"<svg {_SPACE}", 1) + "\n"


def section(found: Results, pictures: Sequence[str], note: str = "") -> Iterator[str]:
    """Lines of Markdown: what was measured where, charts, and tables."""
    machine = found.environment.get("before", {})
    launches = found.settings.get("launches")
    rounds = max((len(r) for run in found.runs for by_name in run.seconds.values()
                  for launch in by_name.values() for r in launch), default=0)  # fmt: skip
    yield ""
    yield (
        f"{found.settings.get('shape')}, {machine.get('cpu') or 'a processor without a name'}, "
        f"{machine.get('logical_cores') or 'unknown'} hardware threads, load before the run "
        f"{machine.get('load') if machine.get('load') is not None else 'not measured'}; launches: "
        f"{launches}, rounds in each: up to {rounds}."
    )
    if note:
        yield ""
        yield note
    yield ""
    for picture in pictures:
        yield f"![{Path(picture).stem.replace('-', ' ')}]({picture})"
    for table in tables(found):
        yield ""
        yield f"**{table.title[0].upper()}{table.title[1:]}**"
        yield ""
        yield from table.lines()
    if found.skipped:
        yield ""
        yield "Not measured:"
        yield ""
        yield from (f"- {line}" for line in found.skipped)
    yield ""


if __name__ == "__main__":
    sys.exit(main())
