"""`arkinfer export`: a checkpoint in the format of others. Knows no layout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from arkinfer.cli.options import Checkpoint, Json, Offline

if TYPE_CHECKING:
    from arkinfer.export import ExportReport


def export(
    model: Checkpoint = None,
    format: Annotated[
        str, typer.Option("--format", help="gptq, compressed-tensors or gguf.")
    ] = "gptq",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="What to write; default: <model>-<format>."),
    ] = None,
    quant: Annotated[
        str | None,
        typer.Option(help="How to quantize; default: int4, or as the checkpoint is."),
    ] = None,
    type: Annotated[
        str | None, typer.Option(help="Of gguf: f16, q8_0, q4_0 or tq2_0; default: as it is.")
    ] = None,
    requantize: Annotated[
        bool, typer.Option("--requantize", help="Quantize again what the format cannot hold.")
    ] = False,
    offline: Offline = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download without asking.")] = False,
    json: Json = False,
) -> None:
    """Write a checkpoint in the format of other programs.

    Example: arkinfer export models/MiniCPM4-0.5B --format gptq --quant int4-g128 -o folder
    """
    from arkinfer.cli.download import asker
    from arkinfer.cli.progress import Progress
    from arkinfer.export import export as write

    with Progress("Exporting") as line:
        report = write(
            model,
            format,
            output,
            quant=quant,
            requantize=requantize,
            type=type,
            offline=offline,
            confirm=asker(yes),
            on_part=line,
        )
    if json:
        from json import dumps

        print(dumps(report.to_json(), indent=2))
    else:
        _show(report)


def _show(report: ExportReport) -> None:
    print(f"{report.path}: {report.size / 1e6:,.1f} MB of {report.format}, by {report.model}")
    schemes = ", ".join(f"{count} {name}" for name, count in report.schemes.items())
    print(f"matrices  {schemes}")
    print(f"time      {report.seconds:.1f} s")
    for note in report.notes:
        print(f"note      {note}")
