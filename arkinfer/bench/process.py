"""A benchmark's handle on a process that holds one engine. Knows no engine and no statistics."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from arkinfer import errors
from arkinfer.bench.cases import Case

_PATIENCE = 5.0  # seconds for a process to end by itself


class Worker:
    """A started process; a context manager. `ready` waits until it has loaded its engine.

    Args:
        name: what it runs, for messages.
        command: what starts it; it speaks as `arkinfer.bench.worker` does.
        environment: its variables; None: ours, with everything that is found here found there.

    Attributes:
        process: the process itself.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self._name = name
        self._began = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_environment() if environment is None else environment,
        )

    def ready(self) -> dict[str, Any]:
        """Its facts, and as `first_token_seconds` the time from its start until now."""
        facts = self._read()["ready"]
        return {**facts, "first_token_seconds": time.perf_counter() - self._began}

    def seconds(self, case: Case) -> float:
        """Runs a case once."""
        return float(self._ask({"do": "time", "case": asdict(case)})["seconds"])

    def memory(self) -> dict[str, int]:
        """Resident bytes "now" and at the "peak"."""
        return self._ask({"do": "memory"})["rss"]

    def close(self) -> None:
        """Ends the process; kills it when it does not end."""
        for stream in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                if stream is not None:
                    stream.close()
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def kill(self) -> None:
        """Ends the process at once."""
        self.process.kill()
        self.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close() if kind is None else self.kill()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        try:
            print(json.dumps(question), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            raise self._ended() from None
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.endswith("\n"):
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            kind, *texts = answer["error"]
            raise getattr(errors, kind)(*texts)
        return answer

    def _ended(self) -> errors.ArkError:
        code = self.process.wait()
        if code == -9:
            return errors.ResourceError(
                f"The process that ran {self._name} was killed",
                "Most often the system does so when memory runs out",
                "Close other programs, or give shorter lengths and depths",
            )
        return errors.InternalError(
            f"The process that ran {self._name} ended with code {code}",
            "What it said stands above, if it said anything",
        )


def _environment() -> dict[str, str]:
    """Ours, so that the same code and the same plug-ins are found there."""
    path = os.pathsep.join(os.path.abspath(p) for p in sys.path if p)
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
