"""`arkinfer align`: where an .ark file leaves its model. Knows no stage."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from arkinfer.cli.options import Backend, Json, Threads
from arkinfer.cli.progress import Progress

if TYPE_CHECKING:
    from arkinfer.align.report import Report
    from arkinfer.artifact import Artifact


def align(
    model: Annotated[
        str, typer.Argument(help="The checkpoint: a folder, a hub id, or demo.", show_default=False)
    ],
    file: Annotated[str, typer.Argument(metavar="FILE", help="The .ark file.", show_default=False)],
    backend: Backend = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="OTHER",
            help="Compare with another file, too, or another backend of this one.",
            show_default=False,
        ),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(help="How many tokens of the prompt to run; default: 32.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="The text to run; default: a built-in one.")
    ] = None,
    go_on: Annotated[
        bool, typer.Option("--all", help="Go on past the first op out of tolerance.")
    ] = False,
    calib: Annotated[
        Path | None,
        typer.Option(
            help="The text that a calibrated file looked at, if it was one.", show_default=False
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a report with pictures there.", show_default=False)
    ] = None,
    threads: Threads = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use no network.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download without asking.")] = False,
    json: Json = False,
) -> None:
    """Find the first op at which an .ark file leaves its model, stage by stage.

    Example: arkinfer align demo model.ark --html report.html
    """
    from arkinfer.align.run import TOKENS
    from arkinfer.align.run import align as compare_stages
    from arkinfer.artifact import open_artifact
    from arkinfer.cli.download import asker
    from arkinfer.frontend.checkpoint import open_checkpoint
    from arkinfer.frontend.hub import resolve
    from arkinfer.runtime.demo import located

    with ExitStack() as stack:
        artifact = stack.enter_context(open_artifact(located(file)))
        folder = resolve(model, offline=offline, confirm=asker(yes))
        checkpoint = stack.enter_context(open_checkpoint(folder))
        report = compare_stages(
            artifact,
            checkpoint,
            model=model,
            backend=backend,
            tokens=TOKENS if tokens is None else tokens,
            prompt=prompt,
            against=None if against is None else _other(against, artifact, stack),
            go_on=go_on,
            threads=threads,
            calib=calib,
            on_stage=stack.enter_context(_Teller()),
        )
    if html is not None:
        from arkinfer.align.page import to_html
        from arkinfer.report import write_page

        write_page(html, to_html(report))
    if json:
        from json import dumps

        print(dumps(report.to_json(), indent=2))
    else:
        _show(report)
    if not report.aligned:
        raise typer.Exit(1)


def _other(against: str, artifact: Artifact, stack: ExitStack) -> tuple[Artifact, str | None]:
    """A backend of the same file, or another file and its first one.

    Raises:
        UsageError: there is neither.
    """
    from arkinfer.artifact import open_artifact
    from arkinfer.errors import UsageError
    from arkinfer.runtime.demo import NAMES, located

    if against in artifact.sections:
        return artifact, against
    if against not in NAMES and not Path(against).exists():
        raise UsageError(
            f'There is nothing to compare with at "{against}"',
            f"It is no file, and {artifact.path} was built for {', '.join(artifact.sections)}",
            "Give an .ark file, or one of these backends",
        )
    return stack.enter_context(open_artifact(located(against))), None


class _Teller:
    """One line of progress per stage; quick stages stay silent."""

    def __init__(self) -> None:
        self._stage = ""
        self._line: Progress | None = None

    def __call__(self, stage: str, done: float) -> None:
        if stage != self._stage:
            self.end()
            self._stage, self._line = stage, Progress(stage[:1].upper() + stage[1:])
        if done > 0 and self._line is not None:
            self._line(round(1000 * done), 1000)

    def end(self) -> None:
        if self._line is not None:
            self._line.end()

    def __enter__(self) -> _Teller:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def _show(report: Report) -> None:
    from arkinfer.align.words import failure_lines, figure, number_rows, verdict
    from arkinfer.cli.table import clean, print_table

    for note in report.notes:
        print(clean(note))
    print(clean(verdict(report)))
    rows = [
        (
            stage.name,
            f"{stage.compared:,}",
            figure(stage.largest),
            "" if stage.summed is None else figure(stage.summed),
            f"{len(stage.failures):,}" if stage.failures else "none",
            f"{stage.seconds:.1f} s",
        )
        for stage in report.stages
    ]
    header = ("stage", "compared", "largest error", "adds up to", "out of tolerance", "time")
    print_table(header, rows, left=1)
    for stage in report.stages:
        for note in stage.notes:
            print(clean(f"{stage.name}: {note}"))
        for finding in stage.failures:
            print(f"\n{clean(stage.name)}:")
            for line in failure_lines(stage, finding):
                print(f"  {clean(line)}")
            if finding.difference is not None:
                print_table(("", *stage.sides), number_rows(finding.difference), left=1)
