"""The engines that are compared: one file each, found by its name. Knows no measurement.

A peer is a module with `PACKAGE` (what is imported of it), `INSTALL` (what pip is told), `FORMS`
(by name, how it runs the model), `prepare(checkpoint, folder, options)`, which makes its model
once, and as its main program `serve_peer`: a worker of `arkinfer.bench.worker`.

Peers may need other packages than ours, so each runs in the first Python that has its package: that
of `make peers`, else the one that runs the harness.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from arkinfer.bench.worker import serve
from arkinfer.errors import DeviceError, UsageError, nearest

ROOT = Path(__file__).parents[2]
VENV = ROOT / ".venv-peers"
"""What `make peers` makes."""

PROBE = 8
"""Tokens after which all engines are asked for logits, to see that they run one model."""

KEPT = 512
"""Logits of the probe that are kept, those of the first token ids."""

Weights = Literal["int4", "ternary", "bf16"]


@dataclass(frozen=True)
class Form:
    """How a peer runs the model.

    Attributes:
        weights: what it is compared with.
        how: a line for people.
        options: what its worker is told.
    """

    weights: Weights
    how: str
    options: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Peer:
    """An engine that takes part.

    Attributes:
        name: of the form.
        module: that knows it.
        form: how it runs.
        python: what runs it.
    """

    name: str
    module: ModuleType
    form: Form
    python: Path

    def prepare(self, checkpoint: Path, folder: Path) -> Path:
        """Its model, made once, by its own Python.

        Raises:
            DeviceError: it could not be made; says why and what is needed.
        """
        given = {"checkpoint": str(checkpoint), "folder": str(folder), "options": self.form.options}
        done = subprocess.run(
            [*self._main(), "prepare", json.dumps(given)],
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise DeviceError(f'The model for the peer "{self.name}" could not be made', said,
                              f"It needs: {install_line(self.module)}")  # fmt: skip
        return Path(json.loads(done.stdout.splitlines()[-1])["path"])

    def command(self, path: Path, threads: int, capacity: int) -> list[str]:
        """What starts a worker, with room for `capacity` tokens."""
        given = {"path": str(path), "threads": threads, "capacity": capacity, "seed": 0}
        return [*self._main(), json.dumps(given | self.form.options)]

    def _main(self) -> list[str]:
        return [str(self.python), "-m", self.module.__name__]


def modules() -> list[ModuleType]:
    """All peers but `llama_bench`, which exists only where its binary is."""
    found = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    return [import_module(f"benchmarks.peers.{name}") for name in found if name != "llama_bench"]


def names() -> list[str]:
    """All forms of all peers."""
    return [name for module in modules() for name in module.FORMS]


def chosen(asked: list[str] | None, say: Callable[[str], None]) -> list[Peer]:
    """The peers that were asked for, or all that are installed.

    Args:
        asked: names, "none" for no peer; None: all.
        say: is told who is skipped, and what installs it.

    Raises:
        UsageError: there is no such peer, or one that was asked for is not installed.
    """
    known = {name: module for module in modules() for name in module.FORMS}
    result: list[Peer] = []
    for name in known if asked is None else asked:
        if name == "none":
            continue
        if name not in known:
            raise UsageError(f'There is no peer "{name}"', "", nearest(name, known))
        module = known[name]
        python = python_with(module.PACKAGE)
        if python is not None:
            result.append(Peer(name, module, module.FORMS[name], python))
        elif asked is None:
            say(f'{name} is skipped: "{module.PACKAGE}" is not installed; {install_line(module)}')
        else:
            raise UsageError(f'The peer "{name}" cannot run',
                             f'The Python package "{module.PACKAGE}" is not installed',
                             f"Install it: {install_line(module)}")  # fmt: skip
    return result


def install_line(module: ModuleType) -> str:
    """The command that installs a peer."""
    return f"pip install {module.INSTALL}, or all peers beside ours: make peers"


@cache
def python_with(package: str) -> Path | None:
    """The Python that has a package; the package is not imported."""
    probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
    for python in (VENV / "bin" / "python", Path(sys.executable)):
        if python.exists():
            done = subprocess.run([str(python), "-c", probe, package], check=False)
            if done.returncode == 0:
                return python
    return None


def environment() -> dict[str, str]:
    """The variables of a peer's process: it finds this checkout and no package of our Python."""
    return {
        **os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1",
        "ORT_DISABLE_TELEMETRY": "1",
    }  # fmt: skip


def serve_peer(
    prepare: Callable[[Path, Path, dict[str, Any]], Path],
    open_engine: Callable[[dict[str, Any]], tuple[Any, dict[str, Any]]],
) -> None:
    """The main program of a peer: makes its model, or serves it to the harness."""
    if sys.argv[1] != "prepare":
        serve(lambda: open_engine(json.loads(sys.argv[1])))
        return
    given = json.loads(sys.argv[2])
    path = prepare(Path(given["checkpoint"]), Path(given["folder"]), given["options"])
    print(json.dumps({"path": str(path)}))


def token_ids(vocab_size: int, count: int, seed: int) -> list[int]:
    """The tokens that every engine reads, as `arkinfer.bench.cases.TimedExecutable` draws them."""
    return np.random.default_rng(seed).integers(0, vocab_size, count).tolist()
