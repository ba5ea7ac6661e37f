"""The machine that is examined: its files, its programs, and a Python of its own for what may
crash. Knows no check; tests give it another root and another PATH.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from arkinfer.doctor.finding import State
from arkinfer.doctor.process import Outcome, run

MOST = 1 << 20
"""Bytes of a system's file that are read."""


@dataclass(frozen=True)
class Answer:
    """What a Python of its own found out.

    Attributes:
        state: "ok", or what it found instead.
        facts: what it reported when all was well.
        detail: why the state is not ok.
        fix: what mends it, as far as the error says.
        notes: what else it said.
    """

    state: State
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    detail: str = ""
    fix: str = ""
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, facts: dict[str, Any], notes: tuple[str, ...] = ()) -> Answer:
        """What `arkinfer.doctor.child` answered: facts, or an error."""
        if "error" not in facts:
            return cls("ok", facts, notes=notes)
        error = cast("dict[str, str]", facts["error"])
        state: State = "missing" if error["kind"] in ("device", "missing") else "broken"
        return cls(state, detail=error["detail"], fix=error["fix"], notes=notes)


@dataclass(frozen=True)
class Host:
    """This machine, or a folder that looks like one.

    Attributes:
        root: what "/" is.
        environ: the environment; programs are looked up on its PATH.
        seconds: for which one program may run.
        folder: where the user stands.
    """

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    seconds: float = 60.0
    folder: Path = field(default_factory=Path.cwd)

    def read(self, path: str) -> str | None:
        """A system's file, e.g. "etc/os-release", without NUL characters; None: it cannot be."""
        try:
            with (self.root / path).open("rb") as file:
                return file.read(MOST).decode("utf-8", "replace").replace("\0", "")
        except OSError:
            return None

    def path(self, text: str) -> Path:
        """A path as the environment has it; "~" is the user's home."""
        home = self.environ.get("HOME") or str(Path.home())
        return Path(home + text[1:] if text == "~" or text.startswith("~/") else text)

    def which(self, program: str) -> Path | None:
        """Where a program is; also for one that is given by its path."""
        found = shutil.which(program, path=self.environ.get("PATH", os.defpath))
        return None if found is None else Path(found)

    def run(self, command: Sequence[str | Path], folder: Path | None = None) -> Outcome:
        """Runs a program, with messages in English."""
        environ = {**self.environ, "LC_ALL": "C", "LANGUAGE": "C"}
        return run(command, seconds=self.seconds, environ=environ, folder=folder)

    def arkinfer(self, *words: str, module: str = "arkinfer") -> Outcome:
        """Runs a command of arkinfer in a process that may crash or hang, by this same Python."""
        environ = {**self.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-X", "faulthandler", "-m", module, *words]
        return run(command, seconds=self.seconds, environ=environ)

    def ask(self, *question: str) -> Answer:
        """Asks `arkinfer.doctor.child` in a process that may crash or hang."""
        outcome = self.arkinfer(*question, module="arkinfer.doctor.child")
        notes = tuple(outcome.err.strip().splitlines()[-20:])
        if outcome.hung:
            return Answer("not known", detail=outcome.problem, notes=notes)
        if not outcome.ok:
            return Answer("broken", detail=outcome.problem, notes=notes)
        facts = _last_json(outcome.out)
        if facts is None:
            return Answer("not known", detail="it gave no answer", notes=notes)
        return Answer.of(facts, notes)

    @contextmanager
    def scratch(self) -> Generator[Path, None, None]:
        """A private folder in the user's TMPDIR, removed afterwards.

        Raises:
            OSError: none can be made.
        """
        name = tempfile.mkdtemp(prefix="arkinfer-doctor-", dir=self.temporary())
        try:
            yield Path(name)
        finally:
            shutil.rmtree(name, ignore_errors=True)

    def temporary(self) -> Path:
        """The folder for temporary files: that of TMPDIR, else the system's."""
        return Path(self.environ.get("TMPDIR") or tempfile.gettempdir())


def _last_json(out: str) -> dict[str, Any] | None:
    """The object in the last line: a package may print when it is imported."""
    lines = out.strip().splitlines()
    try:
        facts: object = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return cast("dict[str, Any]", facts) if isinstance(facts, dict) else None
