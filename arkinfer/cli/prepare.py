"""`arkinfer prepare`: finishes a section for this device ahead of its run. Knows no backend."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from arkinfer.cli.options import Backend, Device, Json, Kept, Model
from arkinfer.cli.preparing import Loading
from arkinfer.cli.progress import say
from arkinfer.errors import UsageError, nearest

if TYPE_CHECKING:
    from arkinfer.runtime.prepared import Choice, Prepared

WEIGHTS = ("constants", "inputs")


def prepare(
    file: Model,
    backend: Backend = None,
    device: Device = None,
    network: Annotated[
        str | None,
        typer.Option(help="gemv or native, of a TensorRT section; default: what is faster here."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="constants, which TensorRT may rearrange, or inputs, which takes less memory; "
            "default: by the memory that is free."
        ),
    ] = None,
    cache: Kept = None,
    json: Json = False,
) -> None:
    """Build what an .ark file needs on this device, and keep it for all runs that follow.

    A TensorRT section becomes an engine, for this board and this version of TensorRT. `run` and
    the others do so by themselves. Sections for the processor need nothing but a file that is read
    afresh after it was copied: see the documentation.

    Example: arkinfer prepare model.ark
    """
    from arkinfer.artifact import open_artifact
    from arkinfer.artifact.pages import renew
    from arkinfer.runtime.demo import located
    from arkinfer.runtime.registry import choose_section, prepare_section

    with open_artifact(located(file)) as artifact, Loading(file, f"Preparing {file}") as loading:
        section = choose_section(artifact, backend, device)
        wanted = {"cache": cache, "network": network, "weights": _checked(weights)}
        made = prepare_section(artifact, section, loading.options(**wanted))
    if made is None and (network or weights):
        raise _unused(section.backend, "--network" if network else "--weights")
    if made is None:
        with suppress(OSError):  # a file system that has no such cache
            renew(artifact.path)
    if json:
        _print_json(file, section.backend, made)
        return
    if made is None:
        print(f"{file} needs no preparation: its section for {section.backend} runs as it is.")
        print("The next run reads it afresh, into large pages where the system has them.")
        return
    _print(file, section.backend, made)


def _checked(weights: str | None) -> str | None:
    if weights is None or weights in WEIGHTS:
        return weights
    raise UsageError(f'--weights cannot be "{weights}"', fix=nearest(weights, WEIGHTS))


def _unused(backend: str, option: str) -> UsageError:
    """Nothing that was asked for is ignored in silence."""
    return UsageError(
        f"{option} has nothing to choose", f"Sections for {backend} run as they are", "Leave it out"
    )


def _print_json(file: str, backend: str, made: Prepared | None) -> None:
    from json import dumps

    facts: dict[str, Any] = {"path": file, "backend": backend, "needed": made is not None}
    print(dumps({**facts, "prepared": None if made is None else made.to_json()}, indent=2))


def _print(file: str, backend: str, made: Prepared) -> None:
    from arkinfer.words import clean, duration, human

    already = ", and was before" if made.reused else ""
    print(clean(f"{file} is ready for {backend} on this device{already}."))
    rows = [("took", duration(made.seconds)), ("size", human(made.nbytes))]
    rows.append(("kept", str(made.path) if made.path else "nowhere: each run prepares it again"))
    if made.network:
        rows.append(("network", made.network))
    rows += [("measured", _measured(choice)) for choice in made.choices]
    for name, text in rows:
        print(clean(f"{name:<9} {text}"))
    for note in made.notes:
        say(note)


def _measured(choice: Choice) -> str:
    times = sorted(choice.seconds.items(), key=lambda item: item[1])
    text = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in times)
    return f"{choice.what}: {text}; {choice.taken} was taken"
