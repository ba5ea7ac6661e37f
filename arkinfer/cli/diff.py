"""`arkinfer diff`: what differs between two .ark files. Knows no way to compare."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from arkinfer.cli.options import Backend, Json, Threads
from arkinfer.cli.progress import Progress

if TYPE_CHECKING:
    from arkinfer.diff.compare import Comparison, Graph

DIFFERENT, TROUBLE = 1, 2
"""Exit codes as diff(1) and cmp(1) have them."""

_LINES = 12  # of a graph's difference, and of a table of weights


def diff(
    a: Annotated[
        str, typer.Argument(metavar="A", help="An .ark file, or demo.", show_default=False)
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one.", show_default=False)],
    run: Annotated[
        bool, typer.Option("--run/--no-run", help="Run both and compare their answers.")
    ] = True,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with all of it.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Show every line and weight.")] = False,
    threads: Threads = None,
    backend: Backend = None,
    json: Json = False,
) -> None:
    """Show what differs between two .ark files: facts, graph, weights, answers.

    Exit codes are those of diff: 0 same contents, 1 they differ, 2 or more trouble.

    Example: arkinfer diff old.ark new.ark --html diff.html
    """
    with _trouble(json):
        found, names = _compare(a, b, run, backend, threads)
        if html is not None:
            from arkinfer.diff.page import comparison_page
            from arkinfer.report.files import write_page

            write_page(html, comparison_page(found, *names))
    if json:
        from json import dumps

        facts = {"a": names[0], "b": names[1], **found.to_json()}
        print(dumps(facts, indent=2, allow_nan=False))
    else:
        _print(found, full)
    if not found.same:
        raise typer.Exit(DIFFERENT)


@contextmanager
def _trouble(json: bool) -> Generator[None, None, None]:
    """Errors end with 2 or more, since 1 says that the files differ."""
    from arkinfer.cli.failure import report

    try:
        yield
    except (BrokenPipeError, typer.Exit):
        raise
    except Exception as error:
        raise typer.Exit(max(TROUBLE, report(error, json=json))) from error


def _compare(
    a: str, b: str, run: bool, backend: str | None, threads: int | None
) -> tuple[Comparison, tuple[str, str]]:
    from arkinfer.artifact import open_artifact
    from arkinfer.diff.compare import compare
    from arkinfer.runtime.demo import located

    reading, running = Progress("Comparing weights"), Progress("Comparing answers")
    try:
        with open_artifact(located(a)) as first, open_artifact(located(b)) as second:
            found = compare(
                first, second, run=run, backend=backend, threads=threads,
                reading=reading, running=running,
            )  # fmt: skip
            return found, (str(first.path), str(second.path))
    finally:
        reading.end()
        running.end()


def _print(found: Comparison, full: bool) -> None:
    from arkinfer.cli.table import print_table
    from arkinfer.diff.wording import answers, headline, shown, weights_summary
    from arkinfer.words import clean, human

    print(headline(found))
    if found.same:
        return
    if found.facts:
        rows = [(fact.key, shown(fact.a), shown(fact.b)) for fact in found.facts]
        print_table(("fact", "a", "b"), rows, left=3)
    for index, graph in enumerate(found.graphs):
        _print_graph(graph, -1 if full else 0 if index else _LINES)
    print(f"\nweights: {weights_summary(found)}")
    print_table(("group", "a", "b"), [(g, human(x), human(y)) for g, x, y in found.sizes], left=1)
    _print_weights(found, full)
    if found.entries:
        sizes = [("-" if s is None else human(s) for s in (e.a, e.b)) for e in found.entries]
        names = [entry.name for entry in found.entries]
        print_table(("entry", "a", "b"), [(n, *s) for n, s in zip(names, sizes, strict=True)], 1)
    if found.behaviour is not None:
        print("\nanswers")
        for line in answers(found.behaviour):
            print(f"  {clean(line)}")


def _print_graph(graph: Graph, most: int) -> None:
    """A graph's summary, and at most so many lines of its difference; -1: all of them."""
    from arkinfer.diff.wording import graph_summary
    from arkinfer.words import clean

    print(f"\n{clean(graph.entry)}: {clean(graph_summary(graph))}")
    lines = graph.diff.lines if graph.diff else ()
    for line in lines if most < 0 else lines[:most]:
        print(f"  {clean(line)}")
    if len(lines) > most > 0:
        print(f"  … {len(lines) - most:,} more lines: --full")


def _print_weights(found: Comparison, full: bool) -> None:
    from arkinfer.cli.table import print_table
    from arkinfer.diff.wording import relative

    def size(weight: object) -> str:
        return getattr(weight, "kind", "-")

    ordered = sorted(found.weights, key=lambda w: -1.0 if w.relative is None else -w.relative)
    most = len(ordered) if full else _LINES
    rows = [(w.name, w.how, size(w.a), size(w.b), relative(w)) for w in ordered[:most]]
    if rows:
        print_table(("weight", "", "a", "b", "difference"), rows, left=4)
    if len(ordered) > most:
        print(f"… {len(ordered) - most:,} more weights: --full")
