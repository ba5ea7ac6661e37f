"""Options that several commands share. Knows no command."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

Model: TypeAlias = Annotated[
    str, typer.Argument(metavar="FILE", help="The .ark file, or demo.", show_default=False)
]
Models: TypeAlias = Annotated[
    list[str],
    typer.Argument(metavar="FILE...", help=".ark files, or demo.", show_default=False),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON with stable keys.")]
Threads: TypeAlias = Annotated[
    int | None, typer.Option(help="Worker threads; default: what suits this machine.")
]
Backend: TypeAlias = Annotated[
    str | None, typer.Option(help="Whose section to run; default: the file's first.")
]
Context: TypeAlias = Annotated[
    int | None, typer.Option(help="Room for prompt and answer, in tokens; default: all there is.")
]
