"""`arkinfer build`: a checkpoint goes in, one file comes out. Knows no backend and no format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from arkinfer.cli.progress import Progress

if TYPE_CHECKING:
    from arkinfer.compiler.build import BuildReport
    from arkinfer.compiler.progress import Progress as Moment


def build(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A checkpoint's folder or hub id; default: the one here, else the demo model.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[str, typer.Option(help="What the artifact is for.")] = "cpu",
    quant: Annotated[
        str, typer.Option(help="none, int8, int4, or a form such as int4-g128-asym.")
    ] = "int4",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file to write.", show_default=False)
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="Whose section to write; may be repeated; default: the target's first."),
    ] = None,
    embedding: Annotated[
        str | None, typer.Option(help="Scheme of embedding and head; default: by --quant.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="fp32, fp16 or bf16, of what is not quantized.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(help="The longest sequence, in tokens; default: the model's.")
    ] = None,
    chunk: Annotated[int | None, typer.Option(help="The most tokens of one prefill step.")] = None,
    kv: Annotated[str, typer.Option(help="fp32 or int8, of the key-value cache.")] = "fp32",
    offline: Annotated[bool, typer.Option(help="Use no network.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download without asking.")] = False,
    dump_ir: Annotated[
        Path | None, typer.Option(help="A folder for the IR after each pass.", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON with stable keys.")] = False,
) -> None:
    """Compile a checkpoint into an .ark file.

    Example: arkinfer build models/MiniCPM4-0.5B --quant int4 -o model.ark
    """
    from arkinfer.cli.download import asker
    from arkinfer.compiler.build import build as compile_model

    teller = _Teller()
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
            offline=offline,
            confirm=asker(yes),
            dump_ir=dump_ir,
            on_progress=teller,
        )
    finally:
        teller.end()
    if json:
        from json import dumps

        print(dumps(report.to_json(), indent=2))
    else:
        _show(report)


class _Teller:
    """Shows one line of progress per stage; quick stages stay silent."""

    def __init__(self) -> None:
        self._line = Progress("")
        self._stage = ""

    def __call__(self, moment: Moment) -> None:
        if moment.stage != self._stage:
            self.end()
            self._stage = moment.stage
            self._line = Progress(moment.stage[:1].upper() + moment.stage[1:])
        if moment.total:
            self._line(moment.done, moment.total)

    def end(self) -> None:
        self._line.end()


def _show(report: BuildReport) -> None:
    print(f"{report.path}: {report.size / 1e6:,.1f} MB for {report.target}, by {report.model}")
    schemes = ", ".join(f"{count} {name}" for name, count in report.schemes.items())
    print(f"matrices  {schemes} ({report.bits_per_weight:.2f} bits per weight)")
    print(f"backends  {', '.join(report.backends)}")
    print(f"context   {report.context:,} tokens, cached in {report.kv}")
    print(f"time      {sum(report.seconds.values()):.1f} s")
    for line in report.slow:
        print(f"slow      {line}")
    print(f"next      {_next(report)}")


def _next(report: BuildReport) -> str:
    from arkinfer.runtime.registry import executors

    if report.backends[0] in executors():
        return f'arkinfer run {report.path} "…"'
    return f"arkinfer inspect {report.path} ({report.backends[0]} is not run by this arkinfer)"
