"""Builds in processes that are killed at a chosen place; knows nothing of what must survive.

Run as a program it reads requests, one JSON object a line, and forks a build for each: imports are
paid once, and no build sees another one's memory.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Kill:
    """Where a build is killed.

    Attributes:
        phase: what it is a sample of.
        function: "module:name", replaced by one that counts its calls.
        call: the number of the call.
        when: "before" it, "after" it, or "within": half of what is to be written is.
        seconds: kill from outside after so long, wherever the build is; no function then.
        options: of the build.
    """

    phase: str
    function: str = ""
    call: int = 1
    when: str = "before"
    seconds: float = 0.0
    options: dict[str, Any] = field(default_factory=dict[str, Any])

    def __str__(self) -> str:
        if self.seconds:
            return f"{self.phase} after {self.seconds:.2f} s"
        return f"{self.phase}: {self.when} call {self.call} of {self.function}"


@dataclass(frozen=True)
class Outcome:
    """How a build ended: its exit status, negative for a signal, and its report."""

    status: int
    reused: int = 0
    notes: tuple[str, ...] = ()
    error: str = ""


class Builder:
    """The process that forks builds of one checkpoint; a context manager."""

    def __init__(self, checkpoint: Path, temporary: Path) -> None:
        self._checkpoint = checkpoint
        temporary.mkdir(exist_ok=True)
        path = os.pathsep.join([str(ROOT), str(ROOT / "backends")])
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(temporary)},
        )  # fmt: skip

    def build(self, output: Path, cache: Path, kill: Kill | None = None) -> Outcome:
        """Builds, in a process of its own."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {
            "checkpoint": str(self._checkpoint), "output": str(output), "cache": str(cache),
            "kill": None if kill is None else asdict(kill),
        }  # fmt: skip
        print(json.dumps(request), file=self._process.stdin, flush=True)
        found = json.loads(self._process.stdout.readline())
        return Outcome(**{**found, "notes": tuple(found.get("notes", ()))})

    def __enter__(self) -> Builder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate(timeout=60)


def _arm(kill: Kill) -> None:
    """Replaces the function by one that kills this process."""
    module_name, _, name = kill.function.partition(":")
    module = importlib.import_module(module_name)
    real = getattr(module, name)
    calls = 0

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != kill.call:
            return real(*args, **options)
        if kill.when == "within":
            file, data, *rest = args
            real(file, data[: len(data) // 2], *rest, **options)
        elif kill.when == "after":
            real(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(module, name, counted)


def _child(request: dict[str, Any], answer: int) -> None:
    os.environ["ARKINFER_CACHE"] = request["cache"]
    kill = None if request["kill"] is None else Kill(**request["kill"])
    found: dict[str, Any]
    try:
        from arkinfer.compiler.build import build

        if kill is not None and kill.function:
            _arm(kill)
        options = {"backend": "onnxruntime", **({} if kill is None else kill.options)}
        report = build(request["checkpoint"], output=request["output"], **options)
        found = {"reused": report.reused, "notes": report.notes}
    except BaseException as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    os.write(answer, json.dumps(found).encode())
    os._exit(1 if "error" in found else 0)


def _serve() -> None:
    """Imports what builds import, but for torch, and answers requests."""
    modules = ["arkinfer.compiler.build", "arkinfer.compiler.kv_scales", "arkinfer.frontend.hub"]
    modules += ["arkinfer.passes", "arkinfer_ort.compiler", "arkinfer_ort.lowering"]
    for name in modules:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        reading, writing = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(reading)
            _child(request, writing)
        os.close(writing)
        if request["kill"] is not None and request["kill"]["seconds"]:
            time.sleep(request["kill"]["seconds"])
            os.kill(process, signal.SIGKILL)
        with os.fdopen(reading) as answer:
            text = answer.read()
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        print(json.dumps({"status": status, **json.loads(text or "{}")}), flush=True)


if __name__ == "__main__":
    _serve()
