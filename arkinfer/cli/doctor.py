"""`arkinfer doctor`: what runs here, what an artifact needs, what mends each gap.

Knows no check.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from arkinfer.cli.options import Backend, Context, Json
from arkinfer.cli.progress import announced

if TYPE_CHECKING:
    from arkinfer.doctor.examine import Diagnosis
    from arkinfer.doctor.finding import Finding

COLOURS = {"ok": "32", "missing": "33", "broken": "31", "not known": "33"}
DEVICE = 4  # the exit code


def doctor(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]", help="The .ark file that shall run here, or demo.", show_default=False
        ),
    ] = None,
    backend: Backend = None,
    context: Context = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show how each thing was found out.")
    ] = False,
    json: Json = False,
) -> None:
    """Say what this machine can run and build, and the command that mends each gap.

    With a file: which of its sections runs here, why the others do not, and whether there is
    memory for it. Nothing is changed. Exit code 4: nothing, or not the file, runs here.

    Example: arkinfer doctor model.ark
    """
    diagnosis = _examine(file, backend, context)
    if json:
        from json import dumps

        print(dumps(diagnosis.to_json(), indent=2))
    else:
        _print(diagnosis, verbose)
    if not diagnosis.ok:
        raise typer.Exit(DEVICE)


def _examine(file: str | None, backend: str | None, context: int | None) -> Diagnosis:
    from arkinfer.doctor.examine import examine, examine_artifact
    from arkinfer.doctor.host import Host
    from arkinfer.errors import UsageError

    with announced("Looking at this machine"):
        if file is not None:
            from arkinfer.artifact import open_artifact
            from arkinfer.runtime.demo import located

            with open_artifact(located(file)) as artifact:
                return examine_artifact(Host(), artifact, backend, context)
        if backend is not None or context is not None:
            raise UsageError("--backend and --context are about a file", fix="Name an .ark file")
        return examine(Host())


def _print(diagnosis: Diagnosis, verbose: bool) -> None:
    from arkinfer.words import clean

    print(clean(diagnosis.summary))
    width = max(len(finding.name) for group in diagnosis.groups for finding in group.findings)
    for group in diagnosis.groups:
        print(f"\n{group.title}")
        for finding in group.findings:
            _print_finding(finding, width, verbose)
    if gaps := diagnosis.gaps:
        print(f"\n{gaps} gap{'s' if gaps > 1 else ''}; what mends {'each' if gaps > 1 else 'it'} "
              'stands below it, after "fix:".')  # fmt: skip


def _print_finding(finding: Finding, width: int, verbose: bool) -> None:
    from arkinfer.words import clean

    state = f"{finding.state:<9}"
    if sys.stdout.isatty():
        state = f"\x1b[{COLOURS[finding.state]}m{state}\x1b[0m"
    print(f"  {state}  {finding.name:<{width}}  {clean(finding.detail)}".rstrip())
    if finding.fix:
        print(f"  {'':<9}  {'':<{width}}  fix: {clean(finding.fix)}")
    for note in finding.notes if verbose else ():
        print(f"  {'':<9}  {'':<{width}}  | {clean(note)}")
