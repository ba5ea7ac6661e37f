"""What the user sees when a command fails: one sentence, or JSON. Knows no command."""

from __future__ import annotations

import os
import sys
from types import TracebackType

from arkinfer.errors import ArkError, InternalError, ResourceError, UsageError

DEBUG = "ARKINFER_DEBUG"


def explained(error: Exception, command: str | None) -> Exception:
    """Typer's own errors as ours; all others as they are."""
    import typer

    kinds = typer.BadParameter.__mro__
    if not isinstance(error, next(kind for kind in kinds if kind.__name__ == "ClickException")):
        return error
    text = getattr(error, "format_message", error.__str__)()
    help_of = f"arkinfer {command} --help" if command else "arkinfer --help"
    return UsageError(" ".join(str(text).split()), fix=f'See "{help_of}"')


def unanswered() -> UsageError:
    """The error for a question that got no answer."""
    return UsageError(
        "A question was left unanswered",
        "Standard input ended, or the answer was no",
        "Answer it, or give the option that answers it",
    )


def report(error: Exception, *, json: bool) -> int:
    """Prints an error, on standard error or as JSON on standard output; the exit code."""
    known = error if isinstance(error, ArkError) else _unexpected(error)
    if os.environ.get(DEBUG, "") not in ("", "0"):
        sys.excepthook(type(error), error, error.__traceback__)
    elif isinstance(known, InternalError):
        known = InternalError(known.what, known.why, _how_to_report(known.fix, error))
    if json:
        from json import dumps

        parts = {"what": known.what, "why": known.why, "fix": known.fix, "kind": kind(known)}
        print(dumps({"error": parts}, indent=2), flush=True)
    else:
        print(f"error: {_printable(str(known))}", file=sys.stderr)
    return known.exit_code


def kind(error: ArkError) -> str:
    """The kind of an error as JSON names it.

    >>> kind(UsageError("x"))
    'usage'
    """
    return type(error).__name__.removesuffix("Error").lower()


def _unexpected(error: Exception) -> ArkError:
    if isinstance(error, MemoryError):
        return ResourceError(
            "There is not enough memory", str(error), "Close other programs, or lower --context"
        )
    text = " ".join(str(error).split())
    name = type(error).__name__
    return InternalError("arkinfer broke down", f"{name}: {text}" if text else name)


def _how_to_report(fix: str, error: Exception) -> str:
    """The fix of an internal error, and where its traceback is kept."""
    lead = f"{fix.rstrip('.')}. " if fix else ""
    path = _keep(error)
    if path is None:
        return f"{lead}Please report it, with what is shown when {DEBUG}=1 is set"
    return f'{lead}Please report it, with the file "{path}"'


def _keep(error: Exception) -> str | None:
    """Writes the traceback and the versions to a file of its own; None: nowhere to write."""
    import platform
    import tempfile
    import traceback

    from arkinfer import __version__

    trace: TracebackType | None = error.__traceback__
    lines = traceback.format_exception(type(error), error, trace)
    system = f"arkinfer {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="arkinfer-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(system + "".join(lines))
        return file.name
    except OSError:
        return None


def _printable(text: str) -> str:
    """Without characters that would steer the terminal: a message may quote a foreign file."""
    return "".join(c if c.isprintable() else "?" for c in text)
