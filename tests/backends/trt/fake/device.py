"""A fake device with an artifact on it, and a folder for engines: what most tests of the executor
begin with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arkinfer.artifact import Artifact, Section, open_artifact
from arkinfer.runtime.contract import LoadOptions
from arkinfer.runtime.prepared import Prepared
from arkinfer_trt.executable import TensorRTExecutable
from arkinfer_trt.executor import TensorRTExecutor
from tests.backends.trt.fake import installed
from tests.backends.trt.fake.machine import Machine


@dataclass
class Device:
    """A machine that has an artifact.

    Attributes:
        artifact: open.
        cache: where engines are kept.
        machine: may be changed at any time.
        told: what was prepared or found, in order.
        progress: what the user was told on the way.
    """

    artifact: Artifact
    cache: Path
    machine: Machine = field(default_factory=Machine)
    told: list[Prepared] = field(default_factory=list)
    progress: list[tuple[str, int, int]] = field(default_factory=list)

    @property
    def section(self) -> Section:
        return self.artifact.sections["tensorrt"]

    def options(self, **more: Any) -> LoadOptions:
        def report(what: str, done: int, total: int) -> None:
            self.progress.append((what, done, total))

        given: dict[str, Any] = {"cache": self.cache, "on_progress": report, **more}
        return LoadOptions(on_prepared=self.told.append, **given)

    def open(self, **more: Any) -> TensorRTExecutable:
        with installed(self.machine):
            return TensorRTExecutor().open(self.artifact, self.section, self.options(**more))

    def prepare(self, **more: Any) -> Prepared:
        with installed(self.machine):
            return TensorRTExecutor().prepare(self.artifact, self.section, self.options(**more))

    def prepared(self, **more: Any) -> Prepared | None:
        with installed(self.machine):
            return TensorRTExecutor().prepared(self.artifact, self.section, self.options(**more))


@contextmanager
def device(artifact: Path, cache: Path) -> Iterator[Device]:
    with open_artifact(artifact) as opened:
        yield Device(opened, cache)
