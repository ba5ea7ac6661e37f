"""`arkinfer build`: a checkpoint goes in, one file comes out. Knows no backend and no format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from arkinfer.cli.caches import by_backend, cache_words
from arkinfer.cli.options import (
    Activations,
    Calib,
    CalibSamples,
    CalibSeed,
    CalibTokens,
    Checkpoint,
    Chunk,
    Dtype,
    Embedding,
    Json,
    Kv,
    Longest,
    NoCpu,
    Offline,
    Output,
    Quant,
    Recipe,
    Requantize,
    Sections,
    Target,
    Tune,
)
from arkinfer.cli.placed import placed
from arkinfer.cli.teller import Teller

if TYPE_CHECKING:
    from arkinfer.compiler.build import BuildReport


def build(
    model: Checkpoint = None,
    target: Target = None,
    quant: Quant = None,
    output: Output = None,
    backend: Sections = None,
    no_cpu: NoCpu = False,
    embedding: Embedding = None,
    dtype: Dtype = None,
    context: Longest = None,
    chunk: Chunk = None,
    kv: Kv = None,
    activations: Activations = None,
    tune: Tune = False,
    recipe: Recipe = None,
    requantize: Requantize = False,
    calib: Calib = None,
    calib_samples: CalibSamples = None,
    calib_tokens: CalibTokens = None,
    calib_seed: CalibSeed = None,
    offline: Offline = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download without asking.")] = False,
    dump_ir: Annotated[
        Path | None, typer.Option(help="A folder for the IR after each pass.", show_default=False)
    ] = None,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Reuse what earlier builds finished.")
    ] = True,
    json: Json = False,
) -> None:
    """Compile a checkpoint into an .ark file.

    Example: arkinfer build models/MiniCPM4-0.5B --quant int4 -o model.ark
    """
    from arkinfer.cli.download import asker
    from arkinfer.compiler.build import build as compile_model
    from arkinfer.compiler.calibration.text import text_options

    teller = Teller()
    try:
        report = compile_model(
            model,
            target,
            quant,
            output,
            backend=tuple(backend) if backend else None,
            embedding=embedding,
            dtype=dtype,
            context=context,
            chunk=chunk,
            kv=kv,
            activations=activations,
            requantize=requantize,
            no_cpu=no_cpu,
            tune=tune,
            calib=text_options(calib, calib_samples, calib_tokens, calib_seed),
            recipe=recipe,
            offline=offline,
            confirm=asker(yes),
            dump_ir=dump_ir,
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


def _show(report: BuildReport) -> None:
    print(f"{report.path}: {report.size / 1e6:,.1f} MB for {report.target}, by {report.model}")
    if report.recipe is not None:
        print(f"recipe    {report.recipe['name']}")
    schemes = ", ".join(f"{count} {name}" for name, count in report.schemes.items())
    print(f"matrices  {schemes} ({report.bits_per_weight:.2f} bits per weight)")
    if report.quality is not None:
        from arkinfer.cli.quality import summary
        from arkinfer.quality.report import parse_quality

        print(f"quality   {summary(parse_quality(report.quality))}")
    if report.raised:
        print(f"in 8 bits {', '.join(report.raised)}, for the gates")
    print(f"backends  {', '.join(report.backends)}")
    for line in placed(report.placement):
        print(f"placed    {line}")
    kept = {name: cache_words(kv, report.kv_scales) for name, kv in report.caches.items()}
    print(f"context   {report.context:,} tokens, cached in {by_backend(kept)}")
    if report.activations:
        print(f"products  with activations in {by_backend(report.activations)}")
    quantized = sum(count for name, count in report.schemes.items() if name.startswith("int"))
    if report.tuned is not None:
        print(f"tuned     on {report.tuned}")
    if report.reused:
        print(f"reused    {report.reused} of {quantized} quantized matrices, from the cache")
    print(f"time      {sum(report.seconds.values()):.1f} s")
    for line in report.requantized:
        print(f"again     {line}")
    for line in report.slow:
        print(f"slow      {line}")
    print(f"next      {_next(report)}")


def _next(report: BuildReport) -> str:
    from arkinfer.runtime.registry import device_of, executors

    if device_of(report.backends[0]) == "gpu":
        here = _cores_run(report.path)
        also = f'; here: arkinfer run {report.path} "…" --device cpu' if here else ""
        return f"on its device: arkinfer prepare {report.path}{also}"
    if report.backends[0] in executors():
        return f'arkinfer run {report.path} "…"'
    return f"arkinfer inspect {report.path} ({report.backends[0]} is not run by this arkinfer)"


def _cores_run(path: Path) -> bool:
    """Whether this machine runs the section that `--device cpu` takes: it may be another
    processor's."""
    from arkinfer.artifact import open_artifact
    from arkinfer.runtime.registry import device_of, refusal

    with open_artifact(path) as artifact:
        cores = [each for name, each in artifact.sections.items() if device_of(name) == "cpu"]
        return bool(cores) and refusal(artifact, cores[0]) is None
