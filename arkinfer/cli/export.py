"""`arkinfer export`: a checkpoint in the format of others. Knows no layout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from arkinfer.cli.options import (
    Calib,
    CalibSamples,
    CalibSeed,
    CalibTokens,
    Checkpoint,
    Json,
    Offline,
    Recipe,
)
from arkinfer.cli.teller import Teller

if TYPE_CHECKING:
    from arkinfer.compiler.export import ExportReport


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
        typer.Option(help="How to quantize, as build; default: int4, or as the checkpoint is."),
    ] = None,
    type: Annotated[
        str | None, typer.Option(help="Of gguf: f16, q8_0, q4_0 or tq2_0; default: as it is.")
    ] = None,
    recipe: Recipe = None,
    requantize: Annotated[
        bool, typer.Option("--requantize", help="Quantize again what the format cannot hold.")
    ] = False,
    calib: Calib = None,
    calib_samples: CalibSamples = None,
    calib_tokens: CalibTokens = None,
    calib_seed: CalibSeed = None,
    offline: Offline = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download without asking.")] = False,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Reuse what was calibrated before.")
    ] = True,
    json: Json = False,
) -> None:
    """Write a checkpoint in the format of other programs.

    Example: arkinfer export models/MiniCPM4-0.5B --format gptq --quant int4-gptq-g128 -o folder
    """
    from arkinfer.cli.download import asker
    from arkinfer.compiler.calibration.text import text_options
    from arkinfer.compiler.export import export as write

    teller = Teller()
    try:
        report = write(
            model,
            format,
            output,
            quant=quant,
            requantize=requantize,
            type=type,
            calib=text_options(calib, calib_samples, calib_tokens, calib_seed),
            recipe=recipe,
            offline=offline,
            confirm=asker(yes),
            cache=cache,
            on_progress=teller,
        )
    finally:
        teller.end()
    if json:
        from json import dumps

        print(dumps(report.to_json(), indent=2))
    else:
        _show(report)


def _show(report: ExportReport) -> None:
    print(f"{report.path}: {report.size / 1e6:,.1f} MB of {report.format}, by {report.model}")
    if report.recipe is not None:
        print(f"recipe    {report.recipe['name']}")
    schemes = ", ".join(f"{count} {name}" for name, count in report.schemes.items())
    print(f"matrices  {schemes}")
    if report.calibration is not None:
        said = report.calibration
        text = f"{said['samples']} sequences of {said['tokens']} tokens of {said['text']}"
        print(f"method    {said['method']}, on {text}")
    print(f"time      {report.seconds:.1f} s")
    for note in report.notes:
        print(f"note      {note}")
