"""The command `arkinfer`: finds the command, turns errors into sentences and exit codes.

Knows each command by its name, its module and one line of help only; the module is imported when
that command is invoked, so that `arkinfer --help` is quick.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import Any

COMMANDS = {
    "plan": "Predict a build's size, memory, time and largest context.",
    "build": "Compile a checkpoint into an .ark file.",
    "recipes": "List what was chosen for published models on each target.",
    "run": "Answer a prompt, or chat, with an .ark file.",
    "prepare": "Finish an .ark file for this device ahead of its first run.",
    "inspect": "Show what an .ark file is: model, quantization, sections, sizes.",
    "verify": "Check an .ark file: bits, signature, answers here.",
    "sign": "Sign an .ark file, so that others can tell who built it.",
    "diff": "Show what differs between two .ark files.",
    "doctor": "Say what this machine can run and build, and what mends each gap.",
    "align": "Find the op at which an .ark file leaves its model.",
    "bench": "Measure how fast an .ark file runs here, and its memory.",
    "profile": "Show where the time of a step goes, op by op.",
    "eval": "Measure how well an .ark file predicts a text (perplexity).",
    "quality": "Show what quantization cost a model, layer by layer.",
    "export": "Write a checkpoint in the format of other programs.",
    "cache": "Show or shrink what builds keep for the next one.",
}
"""Commands in the order of the help; each is the function of that name in `arkinfer.cli.<name>`, or
a `typer.Typer` with commands of its own."""

INTERRUPTED = 130


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line and says how it went; the console script's entry point.

    Args:
        args: arguments after the program's name; None: those of this process.

    Returns:
        The exit code: 0 ok, 1 failed, 2 usage, 3 a gate was not met, 4 device, 130 Ctrl-C.

    Raises:
        SystemExit: another process asked to end by SIGTERM or SIGHUP; 143 or 129, as shells say.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    name = next((word for word in arguments if not word.startswith("-")), None)
    _end_tidily()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a file's name, an answer: anything may come
    try:
        try:
            code = _run(arguments, name)
            sys.stdout.flush()
            return code
        except (KeyboardInterrupt, BrokenPipeError):
            raise
        except Exception as error:
            from arkinfer.cli.failure import report

            return report(error, json="--json" in _options(arguments))
    except KeyboardInterrupt as stop:
        from arkinfer.cli.stopped import tell

        tell(stop, name)
        return INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        return 1


def _run(args: list[str], name: str | None) -> int:
    import typer

    from arkinfer.cli.failure import explained, unanswered
    from arkinfer.cli.stopped import Stopped

    completing = "_ARKINFER_COMPLETE" in os.environ
    if completing:
        words = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
        name = next((word for word in words.split() if word in COMMANDS), None)
    elif name is not None and args[0] == name and name not in COMMANDS:
        from arkinfer.errors import UsageError, nearest

        raise UsageError(f'There is no command "{name}"', fix=nearest(name, COMMANDS))
    command = typer.main.get_command(_app(name))
    try:
        code = command.main(args or ["--help"], prog_name="arkinfer", standalone_mode=False)
    except Stopped as stop:
        raise KeyboardInterrupt(*stop.args) from stop
    except typer.Abort as abort:
        raise unanswered() from abort
    except Exception as error:
        raise explained(error, name if name in COMMANDS else None) from error
    return code if isinstance(code, int) else 0


def _app(wanted: str | None) -> Any:
    """The application, with the one command that is wanted and the help of all others."""
    import typer

    from arkinfer.cli.stopped import Root

    app = typer.Typer(
        cls=Root,
        help="Compile MiniCPM-family checkpoints into one file, and run it without torch.",
        epilog='Example: arkinfer run demo "What is a list comprehension?"',
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def version(wanted: bool) -> None:
        if wanted:
            from arkinfer import __version__

            print(f"arkinfer {__version__}")
            raise typer.Exit

    def root(
        version: bool = typer.Option(
            False, "--version", callback=version, is_eager=True, help="Show the version."
        ),
    ) -> None:
        """Options of the program itself."""

    app.callback(help=app.info.help)(root)
    for name, text in COMMANDS.items():
        if name != wanted:
            app.command(name, help=text)(lambda: None)
        elif isinstance(found := _function(name), typer.Typer):
            app.add_typer(found, name=name, help=text)
        else:
            app.command(name)(found)
    return app


def _function(name: str) -> Any:
    return getattr(import_module(f"arkinfer.cli.{name}"), name)


def _end_tidily() -> None:
    """When asked to end, or when the terminal is closed, files are taken away like on Ctrl-C."""

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may say
        if signal.getsignal(number) == signal.SIG_DFL:  # not under nohup
            signal.signal(number, end)


def _options(args: list[str]) -> list[str]:
    """The arguments that may be options: those before "--"."""
    return args[: args.index("--")] if "--" in args else args


def _forget_stdout() -> None:
    """Whoever read our output is gone; without this, Python would complain while ending."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
