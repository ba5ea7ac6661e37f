"""`arkinfer doctor`: what runs here, what an artifact needs, what mends each gap.

Knows no check.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from arkinfer.cli.options import Backend, Context, Device, Json
from arkinfer.cli.progress import Steps, announced, say

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
    device: Device = None,
    context: Context = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Also run the file, and write all that is to know here for somebody far away.",
            show_default=False,
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show how each thing was found out.")
    ] = False,
    json: Json = False,
) -> None:
    """Say what this machine can run and build, and the command that mends each gap.

    With a file: which of its sections runs here, why the others do not, and whether there is
    memory for it. Nothing is changed. Exit code 4: nothing, or not the file, runs here.

    Example: arkinfer doctor model.ark --report report.json
    """
    if report is not None and file is None:
        file = "demo"
        say("no file was named, so that the report is about demo")
    diagnosis = _examine(file, backend, device, context)
    if json:
        from json import dumps

        print(dumps(diagnosis.to_json(), indent=2))
    else:
        _print(diagnosis, verbose)
    if report is not None and file is not None:
        _report(report, file, diagnosis)
    if not diagnosis.ok:
        raise typer.Exit(DEVICE)


def _report(path: Path, file: str, diagnosis: Diagnosis) -> None:
    """Says on standard error where it is: standard output may be JSON."""
    from arkinfer.doctor.host import Host
    from arkinfer.doctor.report import write_report
    from arkinfer.runtime.demo import located

    with Steps() as steps:
        made = write_report(
            path, Host(), Path(located(file)), diagnosis,
            lambda what: steps(f"Report: {what}", 0, 0),
        )  # fmt: skip
    missing = f"; not to be had here: {', '.join(made.missing)}" if made.missing else ""
    say(f"the report is in {path}{missing}")


def _examine(
    file: str | None, backend: str | None, device: str | None, context: int | None
) -> Diagnosis:
    from arkinfer.doctor.examine import examine, examine_artifact
    from arkinfer.doctor.host import Host
    from arkinfer.errors import UsageError

    with announced("Looking at this machine"):
        if file is not None:
            from arkinfer.artifact import open_artifact
            from arkinfer.runtime.demo import located

            with open_artifact(located(file)) as artifact:
                return examine_artifact(Host(), artifact, backend, context, device)
        for name, value in (("--backend", backend), ("--device", device), ("--context", context)):
            if value is not None:
                raise UsageError(f"{name} is about a file", fix="Name an .ark file")
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
