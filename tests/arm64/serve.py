"""Does in this process what the other one asks for, through its standard input and output:
`python -m tests.arm64.serve`. Knows no backend.

A request is `(thing, name, arguments, keywords)`: a method of a thing that an earlier request made,
or an attribute where `arguments` is None; thing 0 is this module. What is not plain data stays here
and goes back as a `Thing`.
"""

from __future__ import annotations

import os
import pickle
import sys
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from typing import Any

from arkinfer.artifact import open_artifact


@dataclass(frozen=True)
class Thing:
    """Stands for an executable or a state of the serving process."""

    number: int


def open_section(executor: str, path: str, backend: str, options: Any) -> Any:
    """An executable.

    Args:
        executor: "module:class".
        path: of an artifact, which stays open.
        backend: the section's name.
        options: `LoadOptions`.
    """
    module, _, name = executor.partition(":")
    artifact = open_artifact(path)
    return getattr(import_module(module), name)().open(
        artifact, artifact.sections[backend], options
    )


def observe(things: list[Any], state: int, tokens: Any, rows: str) -> tuple[list[Any], Any]:
    """What a state's observer is shown, and the step's output."""
    shown: list[Any] = []
    output = things[state].observe(tokens, lambda *each: shown.append(each), rows=rows)
    return shown, output


def save(things: list[Any], state: int) -> bytes:
    """What a state writes into a file."""
    file = BytesIO()
    things[state].save(file)
    return file.getvalue()


def restore(things: list[Any], state: int, data: bytes) -> None:
    """A state from what another one wrote, and nothing behind it."""
    file = BytesIO(data)
    things[state].restore(file)
    assert not file.read()


class Kernels:
    """Compiled kernels that run here: see `tests/arm64/kernels.py`, which asks for it."""

    def __init__(self, code: bytes, name: str, threads: int, calls: int) -> None:
        from arkinfer_tvm.library import Library

        self._library = Library(code, name, threads, calls)
        self.close = self._library.close

    def run(
        self, program: bytes, weights: dict[str, Any], caches: list[Any], ports: dict[str, Any],
        symbols: dict[str, int],
    ) -> tuple[list[Any], dict[str, Any]]:  # fmt: skip
        """Runs a program, and gives back its caches and ports as they are then."""
        from arkinfer_tvm.library import Bound, aligned
        from arkinfer_tvm.program import programs_from_json

        def placed(array: Any) -> Any:
            copy = aligned(array.shape, array.dtype)
            copy[...] = array
            return copy

        caches = [placed(array) for array in caches]
        ports = {name: placed(array) for name, array in ports.items()}
        (read,) = programs_from_json(program)
        bound = Bound(read, self._library, {n: placed(array) for n, array in weights.items()})
        bound.run(bound.arguments(caches), symbols, ports.items())
        return caches, ports


def serve() -> None:
    """Answers until there are no more requests."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints does not print into the answers
    things: list[Any] = [sys.modules[__name__]]
    while True:
        try:
            number, name, arguments, keywords = pickle.load(requests)
        except EOFError:
            return
        try:
            if number == 0 and name in ("observe", "save", "restore"):
                arguments = (things, *arguments)
            found = getattr(things[number], name)
            value = found if arguments is None else found(*arguments, **keywords)
            if isinstance(value, Kernels) or hasattr(value, "new_state") or hasattr(value, "step"):
                things.append(value)
                value = Thing(len(things) - 1)
            answer = ("value", value)
        except Exception as error:
            answer = ("error", error)
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    from tests.arm64 import serve as module  # not __main__, so that Thing is the one of both sides

    module.serve()
