"""What is said where Ctrl-C ends a command: one line on standard error. Knows no command's work."""

from __future__ import annotations

import sys
from typing import Any

from typer.core import TyperGroup

_SAID = {"run": "the answer is not complete"}
_ELSE = "arkinfer {name} had not finished; no file was left half written"


class Stopped(Exception):
    """Ctrl-C inside a command; typer would make an exit code of it, and lose what it carries."""


class Root(TyperGroup):
    """The program, out of which Ctrl-C comes as `Stopped`."""

    def invoke(self, ctx: Any) -> Any:  # of typer's own click, or click
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise Stopped(*stop.args) from stop


def tell(stop: BaseException, name: str | None) -> None:
    """Says what became of a command's work.

    Args:
        stop: what ended it; its argument, if it has one, is the sentence.
        name: of the command; None: it was none yet.
    """
    said = str(stop) or (_SAID.get(name, _ELSE.format(name=name)) if name else "")
    over = "\r\x1b[K" if sys.stderr.isatty() else ""  # the terminal's own "^C"
    print(f"{over}stopped{': ' if said else ''}{said}.", file=sys.stderr, flush=True)
