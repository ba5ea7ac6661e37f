"""`arkinfer quality`: what quantization cost, as the build measured it. Runs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from arkinfer.cli.options import Json, Model
from arkinfer.cli.table import print_table

if TYPE_CHECKING:
    from arkinfer.quality.report import Quality

WORST = 3
"""Layers that are named as the most sensitive ones."""


def quality(
    file: Model,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with pictures of it.")
    ] = None,
    json: Json = False,
) -> None:
    """Show what quantization cost: size and error by layer, perplexity, divergence.

    Example: arkinfer quality model.ark --html quality.html
    """
    facts = described(file)
    if html is not None:
        from arkinfer.quality.page import quality_page
        from arkinfer.report.files import write_page

        write_page(html, quality_page(facts))
    if json:
        from json import dumps

        print(dumps(facts, indent=2))
        return
    _show(facts)


def described(file: str) -> dict[str, Any]:
    """What `--json` prints.

    Raises:
        ArtifactError: the file's report cannot be read.
    """
    from arkinfer.artifact import open_artifact
    from arkinfer.quality.report import parse_quality, read_report
    from arkinfer.runtime.demo import located

    with open_artifact(located(file)) as artifact:
        report = read_report(artifact)
        path = str(artifact.path)
    found = report.get("quality")
    return {
        "path": path,
        "quant": report.get("quant"),
        "bits_per_weight": report.get("bits_per_weight"),
        "measured": "quality" in report,
        "quality": None if found is None else parse_quality(found).to_json(),
        "sizes": report.get("layers", []),
        "raised": report.get("raised", []),
    }


def _show(facts: dict[str, Any]) -> None:
    from arkinfer.quality.report import COLUMNS, layer_rows, parse_quality

    print(f"{facts['path']}: {facts['quant']}, {facts['bits_per_weight']:.2f} bits per weight")
    if not facts["measured"]:
        print("The arkinfer that built this file did not measure it: build it again.")
        return
    if facts["quality"] is None:
        print("No matrix is quantized: the model is as the checkpoint has it.")
        found = None
    else:
        found = parse_quality(facts["quality"])
        print(summary(found))
        worst = ", ".join(layer.path for layer in found.most_sensitive()[:WORST])
        print(f"most sensitive  {worst}")
    if facts["raised"]:
        print(f"in 8 bits for the gates  {', '.join(facts['raised'])}")
    print_table(COLUMNS, layer_rows(facts["sizes"], found))


def summary(found: Quality) -> str:
    """One line.

    >>> from arkinfer.quality.report import Quality
    >>> summary(Quality(280, 20.0, 20.5, 0.0123, 0.08, 0.971, ()))
    'mean KL 0.0123, 99 % of them below 0.0800; perplexity 1.0250 times; same best token 97.1 %'
    """
    return (
        f"mean KL {found.mean_kl:.4f}, 99 % of them below {found.p99_kl:.4f}; perplexity "
        f"{found.perplexity_ratio:.4f} times; same best token {100 * found.same_top1:.1f} %"
    )
