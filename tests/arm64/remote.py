"""An executor whose executables and states live in a process of another machine, so that suites
written for executors run there unchanged. Knows no backend.
"""

from __future__ import annotations

import pickle
import subprocess
import threading
from typing import Any, BinaryIO

from arkinfer.artifact import Artifact, Section
from arkinfer.runtime.contract import LoadOptions, Observer, Rows, StepOutput
from tests.arm64.emulator import Emulator
from tests.arm64.make_root import CHECKOUT
from tests.arm64.serve import Thing

PATIENCE = 300.0
"""Seconds that one request may take."""


class Remote:
    """A process that serves; see `serve.py`. `close` when done."""

    def __init__(self, emulator: Emulator) -> None:
        command = emulator.python("-m", "tests.arm64.serve")
        environ = dict(emulator.environ())
        environ["PYTHONPATH"] += f":{CHECKOUT}"
        self._process = subprocess.Popen(
            command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def ask(self, thing: int, name: str, *arguments: Any, **keywords: Any) -> Any:
        """Calls a method there; raises what it raises."""
        return self._ask((thing, name, arguments, keywords))

    def get(self, thing: int, name: str) -> Any:
        """An attribute there."""
        return self._ask((thing, name, None, None))

    def _ask(self, request: tuple[Any, ...]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        watchdog = threading.Timer(PATIENCE, self._process.kill)
        watchdog.start()
        try:
            pickle.dump(request, self._process.stdin)
            self._process.stdin.flush()
            kind, value = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError) as error:
            code = self._process.wait()
            raise AssertionError(f"{request[1]} ended the process with {code}") from error
        finally:
            watchdog.cancel()
        if kind == "error":
            raise value
        return value

    def close(self) -> None:
        """Ends the process, which has nothing left to do."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)


class RemoteExecutor:
    """See `arkinfer.runtime.contract.Executor`.

    Args:
        remote: where it works.
        executor: "module:class" there.
        name: the backend's.
    """

    def __init__(self, remote: Remote, executor: str, name: str) -> None:
        self.name = name
        self._remote, self._executor = remote, executor

    def open(self, artifact: Artifact, section: Section, options: LoadOptions) -> RemoteExecutable:
        words = (self._executor, str(artifact.path), self.name, options)
        return RemoteExecutable(self._remote, self._remote.ask(0, "open_section", *words))


class RemoteExecutable:
    """See `arkinfer.runtime.contract.Executable`; `variant` is what its kernels are for."""

    def __init__(self, remote: Remote, thing: Thing) -> None:
        self._remote, self._thing = remote, thing.number
        self.vocab_size: int = remote.get(self._thing, "vocab_size")
        self.max_context: int = remote.get(self._thing, "max_context")
        self.chunk: int = remote.get(self._thing, "chunk")
        self.features: frozenset[str] = remote.get(self._thing, "features")
        self.variant: str = remote.get(self._thing, "variant")
        tapped = "taps" in self.features
        self.taps: tuple[str, ...] = remote.get(self._thing, "taps") if tapped else ()

    def new_state(self, context: int) -> RemoteState:
        return RemoteState(self._remote, self._remote.ask(self._thing, "new_state", context))

    def close(self) -> None:
        self._remote.ask(self._thing, "close")


class RemoteState:
    """See `arkinfer.runtime.contract.State` and `features`; every step is a step there."""

    def __init__(self, remote: Remote, thing: Thing) -> None:
        self._remote, self._thing = remote, thing.number

    @property
    def length(self) -> int:
        return self._remote.get(self._thing, "length")

    @property
    def capacity(self) -> int:
        return self._remote.get(self._thing, "capacity")

    def step(self, tokens: Any, **keywords: Any) -> StepOutput:
        return self._remote.ask(self._thing, "step", tokens, **keywords)

    def truncate(self, length: int) -> None:
        self._remote.ask(self._thing, "truncate", length)

    def draft(self, tokens: Any, parents: Any, **keywords: Any) -> StepOutput:
        return self._remote.ask(self._thing, "draft", tokens, parents, **keywords)

    def commit(self, indices: Any) -> None:
        self._remote.ask(self._thing, "commit", indices)

    def save(self, file: BinaryIO) -> None:
        file.write(self._remote.ask(0, "save", self._thing))

    def restore(self, file: BinaryIO) -> None:
        """Of a file that has nothing behind the state."""
        self._remote.ask(0, "restore", self._thing, file.read())

    def observe(self, tokens: Any, observer: Observer, *, rows: Rows = "all") -> StepOutput:
        shown, output = self._remote.ask(0, "observe", self._thing, tokens, rows)
        for name, value in shown:
            observer(name, value)
        return output
