"""`arkinfer run`: answers a prompt, or chats. Knows no backend and no sampling."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from arkinfer.cli.options import Backend, Context, Device, Json, Kept, Model, Threads
from arkinfer.cli.preparing import SMALL_PAGES, Loading
from arkinfer.cli.progress import Progress, say

if TYPE_CHECKING:
    from arkinfer.runtime.engine import Engine
    from arkinfer.runtime.generation import Generation


def run(
    file: Model,
    prompt: Annotated[
        str | None,
        typer.Argument(help="Left out: standard input, or a chat in a terminal.", metavar="PROMPT"),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the prompt as it is, without chat template.")
    ] = False,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    think: Annotated[
        bool | None,
        typer.Option(
            "--think/--no-think",
            help="Think before answering; /think or /no_think at the prompt's end do the same.",
            show_default=False,
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="The most to generate; default: what the context holds.")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="0: greedy. Defaults of this and the next four: the model's own."),
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Keep the k likeliest tokens; 0: all.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Keep the likeliest tokens of this mass; 1: all.")
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Keep tokens this likely relative to the best; 0: all.")
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Above 1: tokens seen before become less likely.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random numbers.")] = 0,
    context: Context = None,
    threads: Threads = None,
    backend: Backend = None,
    device: Device = None,
    cache: Kept = None,
    stats: Annotated[
        bool, typer.Option("--stats", help="Say on standard error how fast it was.")
    ] = False,
    json: Json = False,
) -> None:
    """Answer a prompt as it streams; chat where the prompt is left out in a terminal.

    Example: arkinfer run demo "What is a list comprehension?"
    """
    if raw:
        _refuse_with_raw(system, think)
    if prompt is None:
        prompt = _standard_input(raw=raw, json=json)
    start = time.perf_counter()
    from arkinfer.runtime.engine import load

    with Loading(file) as loading:
        engine = load(
            file, backend=backend, device=device, threads=threads, context=context,
            options=loading.options(cache=cache),
        )  # fmt: skip
    loaded = time.perf_counter() - start
    with engine:
        wanted = {
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
        }
        given = {name: value for name, value in wanted.items() if value is not None}
        sampling = replace(engine.sampling, **given, seed=seed)
        _note_unused(given, sampling.temperature)
        options: dict[str, Any] = {**asdict(sampling), "max_new_tokens": max_new_tokens}
        if prompt is None:
            from arkinfer.cli.conversation import converse

            converse(engine, options, system=system, thinking=think, stats=stats)
            return
        with Progress("Reading the prompt") as progress:
            if raw:
                answer = engine.generate(prompt, progress=progress, **options)
            else:
                answer = engine.chat(
                    prompt, system=system, thinking=think, progress=progress, **options
                )
            if json:
                _print_json(engine, answer, asdict(sampling), file, loaded)
                return
            stream(answer, progress)
        say_end(engine, answer, stats=stats)
        if stats:
            _note_pages(engine, file)


def stream(answer: Generation, progress: Progress) -> None:
    """Prints an answer as it comes; ends its line, also when it is interrupted."""
    live = sys.stdout.isatty()
    last = "\n"
    try:
        for piece in answer:
            progress.end()
            sys.stdout.write(piece.translate(_CONTROLS) if live else piece)
            sys.stdout.flush()
            last = piece[-1]
    finally:
        progress.end()
        if last != "\n":
            print(flush=True)


def say_end(engine: Engine, answer: Generation, *, stats: bool) -> None:
    """Says on standard error that the context ended an answer, how fast it was, and on what."""
    full = answer.prompt_tokens + len(answer.tokens) >= engine.context
    if full and answer.finish_reason == "length":
        print(
            f"note: the answer ends here because the context of {engine.context} tokens is full; "
            f"--context N allows up to {engine.executable.max_context}",
            file=sys.stderr,
        )
    if stats:
        times = answer.timings
        reused = f", {times.reused_tokens} reused" if times.reused_tokens else ""
        kernels = f"; kernels for {engine.variant}" if engine.variant else ""
        print(
            f"prompt: {answer.prompt_tokens} tokens{reused}, "
            f"{_rate(times.prefill_tokens_per_second)}; "
            f"answer: {len(answer.tokens)} tokens, "
            f"{_rate(times.decode_tokens_per_second)}{kernels}",
            file=sys.stderr,
        )


def _note_pages(engine: Engine, file: str) -> None:
    from arkinfer.artifact.pages import in_small_pages
    from arkinfer.runtime.demo import located
    from arkinfer.runtime.registry import device_of

    if device_of(engine.backend) == "cpu" and in_small_pages(Path(located(file))):
        say(SMALL_PAGES.format(file=file))


def _rate(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1f} tok/s"


def _refuse_with_raw(system: str | None, think: bool | None) -> None:
    from arkinfer.errors import UsageError

    for name, value in (("--system", system), ("--think and --no-think", think)):
        if value is not None:
            raise UsageError(
                f"{name} cannot be combined with --raw",
                "They work through the chat template, which --raw leaves out",
                "Leave out one of them",
            )


def _standard_input(*, raw: bool, json: bool) -> str | None:
    """The prompt from a pipe or a file; None: a terminal, so a chat."""
    from arkinfer.errors import UsageError

    if sys.stdin is not None and sys.stdin.isatty():  # pyright: ignore[reportUnnecessaryComparison] (None without a console)
        if raw or json:
            option = "--raw" if raw else "--json"
            raise UsageError(
                "There is no prompt", f"{option} does not chat", "Give the prompt after the file"
            )
        return None
    try:
        data = sys.stdin.buffer.read() if sys.stdin is not None else b""  # pyright: ignore[reportUnnecessaryComparison] (as above)
        text = data.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise UsageError(
            "Standard input is not UTF-8 text", str(error), "Convert the prompt to UTF-8"
        ) from error
    if not text.strip():
        raise UsageError(
            "There is no prompt", "Standard input was empty", "Give the prompt after the file"
        )
    return text


def _note_unused(given: dict[str, Any], temperature: float) -> None:
    """Nothing that was asked for is ignored in silence."""
    if temperature == 0:
        for name in ("top_k", "top_p", "min_p"):
            if name in given:
                print(f"note: --{name.replace('_', '-')} has no effect at temperature 0 (greedy); "
                      "add --temperature 0.8", file=sys.stderr)  # fmt: skip


def _print_json(
    engine: Engine, answer: Generation, sampling: dict[str, Any], file: str, loaded: float
) -> None:
    from json import dumps

    first = next(answer, "")
    first_text = _process_age()
    text = first + "".join(answer)
    times = answer.timings
    facts = {
        "path": file,
        "backend": engine.backend,
        "variant": engine.variant,
        "context": engine.context,
        "text": text,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "tokens": len(answer.tokens),
        "sampling": sampling,
        "seconds": {
            "load": loaded,
            "prefill": times.prefill,
            "decode": times.decode,
            "process_start_to_first_text": first_text,
        },
        "prefill_tokens_per_second": times.prefill_tokens_per_second,
        "decode_tokens_per_second": times.decode_tokens_per_second,
    }
    print(dumps(facts, indent=2))


def _process_age() -> float:
    """Seconds since this process was started."""
    try:  # psutil counts from the boot time, which Linux tells in whole seconds only
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, LookupError, ValueError):
        import psutil

        return time.time() - psutil.Process().create_time()


_CONTROLS = {c: "\ufffd" for c in (*range(32), *range(127, 160)) if chr(c) not in "\t\n"}
"""What would steer the terminal: the model's words may come from a foreign text."""
