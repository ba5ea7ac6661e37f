"""The chat of `arkinfer run` in a terminal. Knows no backend and no template."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import typer

from arkinfer.cli import INTERRUPTED
from arkinfer.cli.progress import Progress
from arkinfer.cli.run import say_end, stream
from arkinfer.errors import UsageError

if TYPE_CHECKING:
    from arkinfer.runtime.engine import Engine

_ENDS = ("/bye", "/exit", "/quit")
_SWITCHES = {"/think": True, "/no_think": False}


def converse(
    engine: Engine,
    options: dict[str, Any],
    *,
    system: str | None,
    thinking: bool | None,
    stats: bool,
) -> None:
    """Reads lines and answers them, until the end of input.

    Ctrl-C during an answer keeps what was said; at the prompt it ends the program.

    Args:
        engine: what answers.
        options: keyword arguments of `Engine.chat`.
        system: a system prompt.
        thinking: see `Engine.chat`; typed switches change it.
        stats: say how fast each answer was.
    """
    _line_editing()
    name = engine.manifest["model"]["name"]
    print(f"{name}, {engine.context:,} tokens of context. Ctrl-C stops an answer, /clear begins "
          "anew, Ctrl-D ends.", file=sys.stderr)  # fmt: skip
    _ = engine.template  # raises here, and not after the first question, if there is none
    turns: list[dict[str, str]] = []
    while (line := _ask()) is not None:
        words = line.strip()
        if words in _ENDS:
            return
        if words == "/clear":
            turns = []
        elif words in _SWITCHES:
            thinking = _switch(engine, _SWITCHES[words], thinking)
        elif words:
            turns = _turn(engine, [*turns, {"role": "user", "content": line}], options, system,
                          thinking, stats=stats)  # fmt: skip


def _turn(
    engine: Engine,
    turns: list[dict[str, str]],
    options: dict[str, Any],
    system: str | None,
    thinking: bool | None,
    *,
    stats: bool,
) -> list[dict[str, str]]:
    """Answers the last turn; the conversation after it."""
    with Progress("Reading the prompt") as progress:
        try:
            answer = engine.chat(
                turns, system=system, thinking=thinking, progress=progress, **options
            )
        except UsageError as error:
            hint = " /clear begins anew." if len(turns) > 1 else ""
            print(f"error: {error}{hint}", file=sys.stderr)
            return turns[:-1]
        try:
            stream(answer, progress)
            say_end(engine, answer, stats=stats)
        except KeyboardInterrupt:
            answer.close()
            if not answer.text:
                return turns[:-1]
    return [*turns, {"role": "assistant", "content": answer.text}]


def _switch(engine: Engine, wanted: bool, before: bool | None) -> bool | None:
    if engine.template.can_think:
        print(f"thinking: {'on' if wanted else 'off'}", file=sys.stderr)
        return wanted
    print("note: this model has no thinking switch", file=sys.stderr)
    return before


def _ask() -> str | None:
    """A line; None at the end of input.

    Raises:
        typer.Exit: Ctrl-C, which is how to leave here.
    """
    try:
        return input("> ")
    except KeyboardInterrupt:
        print()
        raise typer.Exit(INTERRUPTED) from None
    except EOFError:
        print()
        return None


def _line_editing() -> None:
    """Arrow keys and history in `input`, where the platform has readline."""
    from contextlib import suppress
    from importlib import import_module

    with suppress(ImportError):
        import_module("readline")  # importing it is what switches it on
