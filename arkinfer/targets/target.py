"""Reads a target's TOML file: architecture, memory, backends in order of preference."""

from __future__ import annotations

import platform
import sys
from functools import cache
from importlib import resources
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from arkinfer.errors import InternalError, UsageError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Target(BaseModel):
    """One kind of machine.

    Attributes:
        name: the file's name.
        summary: what it is, in a few words.
        arch: as `platform.machine()` says it; "host" is replaced by this machine's.
        isa: instruction-set extensions that code may use beyond the architecture's baseline;
            ("host",) stands for whatever this machine has.
        backends: in order of preference; the first compiles unless another one is asked for.
        memory: bytes that the target has; 0: as many as this machine.
        bandwidth: bytes per second from memory, for predictions; 0: unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    summary: str
    arch: str
    isa: tuple[str, ...] = ()
    backends: tuple[str, ...] = Field(min_length=1)
    memory: int = 0
    bandwidth: float = 0.0

    def total_memory(self) -> int:
        """Bytes of memory on the target; this machine's where the target is this machine."""
        if self.memory:
            return self.memory
        import psutil

        return psutil.virtual_memory().total


def target_names() -> list[str]:
    """All targets, sorted."""
    files = resources.files("arkinfer.targets").iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


@cache
def load_target(name: str) -> Target:
    """The target of that name.

    Raises:
        UsageError: there is none; the nearest name is offered.
    """
    if name not in target_names():
        raise UsageError(f'There is no target "{name}"', "", nearest(name, target_names()))
    text = resources.files("arkinfer.targets").joinpath(f"{name}.toml").read_text("utf-8")
    facts: dict[str, Any] = tomllib.loads(text)
    if facts.get("arch") == "host":
        facts["arch"] = platform.machine()
    try:
        return Target(name=name, **facts)
    except ValidationError as error:
        raise InternalError(f'The target file "{name}.toml" is wrong', str(error)) from error
