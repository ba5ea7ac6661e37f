"""Reads a target's TOML file: architecture, memory, backends in order of preference."""

from __future__ import annotations

import platform
import sys
from functools import cache
from importlib import resources
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from arkinfer.errors import UsageError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


_LONGEST = 32 << 10
"""Bytes of a target file; those that come with arkinfer have 300."""


class Published(BaseModel):
    """What somebody measured on a target, to hold predictions against.

    Attributes:
        model: which model, in which form.
        tokens_per_second: that it decoded, one sequence at a time with a nearly empty cache.
        by: the engine, and the system that it ran on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    tokens_per_second: float = Field(gt=0, le=1e6)
    by: str


class Target(BaseModel):
    """One kind of machine.

    Attributes:
        name: the file's name.
        summary: what it is, in a few words.
        recipes: the target whose recipes it takes; "": it has its own.
        arch: as `platform.machine()` says it; "host" is replaced by this machine's.
        isa: instruction-set extensions that code may use beyond the architecture's baseline;
            ("host",) stands for whatever this machine has.
        backends: in order of preference; the first compiles unless another one is asked for.
        cpu: the backend for its own cores, whose section a file has beside the first backend's
            unless another backend is asked for; "": there is none.
        memory: bytes that the model can be in, of the GPU where it runs there; 0: as many as this
            machine has.
        bandwidth: bytes per second from that memory, for predictions; 0: unknown.
        sm: the GPU's compute capability times ten, as CUDA's tools write it; 0: no GPU.
        published: measurements of others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    summary: str
    recipes: str = ""
    arch: str
    isa: tuple[str, ...] = ()
    backends: tuple[str, ...] = Field(min_length=1)
    cpu: str = ""
    memory: int = Field(default=0, ge=0, le=1 << 60)
    bandwidth: float = Field(default=0.0, ge=0, le=1e18)
    sm: int = Field(default=0, ge=0, le=999)
    published: tuple[Published, ...] = ()

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
    return parse_target(
        name, resources.files("arkinfer.targets").joinpath(f"{name}.toml").read_bytes()
    )


def parse_target(name: str, data: bytes) -> Target:
    """The target that a TOML file describes.

    Raises:
        UsageError: the file is not TOML, too long or too deep, or not that of a target.
    """
    try:
        if len(data) > _LONGEST:
            raise ValueError(f"it has more than {_LONGEST:,} bytes")
        facts: dict[str, Any] = tomllib.loads(data.decode())
        if facts.get("arch") == "host":
            facts["arch"] = platform.machine()
        return Target.model_validate({**facts, "name": name})
    except RecursionError as error:
        raise _wrong(name, "it is nested too deeply") from error
    except ValueError as error:  # of UTF-8, TOML and pydantic alike
        raise _wrong(name, str(error)) from error


def _wrong(name: str, why: str) -> UsageError:
    return UsageError(
        f'The target file "{name}.toml" is wrong',
        f"Reason: {why}",
        "Compare it with the target files that come with arkinfer",
    )
