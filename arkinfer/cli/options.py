"""Options that several commands share. Knows no command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

Model: TypeAlias = Annotated[
    str,
    typer.Argument(metavar="FILE", help="The .ark file, demo or demo-ternary.", show_default=False),
]
Models: TypeAlias = Annotated[
    list[str],
    typer.Argument(metavar="FILE...", help=".ark files, demo or demo-ternary.", show_default=False),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON with stable keys.")]
Threads: TypeAlias = Annotated[
    int | None, typer.Option(help="Worker threads; default: what suits this machine.")
]
Backend: TypeAlias = Annotated[
    str | None, typer.Option(help="Whose section to run; default: the file's first.")
]
Device: TypeAlias = Annotated[
    str | None,
    typer.Option(help="cpu or gpu: the first section that runs there, instead of --backend."),
]
Kept: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        help="Folder for what is made for this device; default: see arkinfer cache ls.",
        show_default=False,
    ),
]
Context: TypeAlias = Annotated[
    int | None, typer.Option(help="Room for prompt and answer, in tokens; default: all there is.")
]

# Of what compiles, or predicts it.
Checkpoint: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="A checkpoint's folder or hub id; default: the one here, else the demo model.",
        show_default=False,
    ),
]
Target: TypeAlias = Annotated[
    str | None, typer.Option(help="What the artifact is for; default: cpu.")
]
Recipe: TypeAlias = Annotated[
    str | None,
    typer.Option(help="A name that `arkinfer recipes` lists, or a TOML file; options win over it."),
]
Quant: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="none, ternary, int8, int4, or a form such as int4-g128-asym or int4-gptq-g128; "
        "default: int4."
    ),
]
Output: TypeAlias = Annotated[
    Path | None, typer.Option("-o", "--output", help="The file to write.", show_default=False)
]
Sections: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--backend", help="Whose section; may be repeated; default: the target's."),
]
Embedding: TypeAlias = Annotated[
    str | None, typer.Option(help="Scheme of embedding and head; default: by --quant.")
]
Requantize: TypeAlias = Annotated[
    bool,
    typer.Option("--requantize", help="Quantize again what comes in a form without a fast path."),
]
NoCpu: TypeAlias = Annotated[
    bool, typer.Option("--no-cpu", help="Leave out the section for a board's own cores.")
]
Tune: TypeAlias = Annotated[
    bool, typer.Option("--tune", help="Measure on this machine which kernels are fastest.")
]
Dtype: TypeAlias = Annotated[
    str | None, typer.Option(help="fp32, fp16 or bf16, of what is not quantized.")
]
Longest: TypeAlias = Annotated[
    int | None,
    typer.Option("--context", help="The longest sequence, in tokens; default: the model's."),
]
Chunk: TypeAlias = Annotated[int | None, typer.Option(help="The most tokens of one prefill step.")]
Kv: TypeAlias = Annotated[
    str | None,
    typer.Option(help="fp32, bf16, fp16 or int8, of the key-value cache; default: auto."),
]
Activations: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="int8, int16 or fp32, in products with quantized matrices; default: what is fastest, "
        "and int16 where a backend has it and int8 is measured to lose too much."
    ),
]
Calib: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        help="The text that gptq, awq … look at, or JSON lines; default: a small built-in one.",
        show_default=False,
    ),
]
CalibSamples: TypeAlias = Annotated[
    int | None, typer.Option(help="The most sequences of it; default: 128.", show_default=False)
]
CalibTokens: TypeAlias = Annotated[
    int | None, typer.Option(help="The tokens of each; default: 512.", show_default=False)
]
CalibSeed: TypeAlias = Annotated[
    int | None, typer.Option(help="Decides which sequences; default: 0.", show_default=False)
]
Offline: TypeAlias = Annotated[bool, typer.Option(help="Use no network.")]
