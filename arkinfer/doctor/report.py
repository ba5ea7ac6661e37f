"""One JSON file with all that somebody far away has to know of this machine and of a file on it.

Every item is there, or says why it is not; none stops the others, and the file is written anew
after each, so that a power cut costs one item. Knows no backend.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from arkinfer import __version__
from arkinfer.doctor.examine import Diagnosis
from arkinfer.doctor.host import Host
from arkinfer.doctor.process import Outcome
from arkinfer.doctor.trial import trial
from arkinfer.errors import ResourceError
from arkinfer.machine.environment import disturbed, read_environment
from arkinfer.machine.jetson import read_jetson
from arkinfer.runtime.registry import DEVICES, device_of

FORMAT = 1
"""Goes up when an item changes its meaning; new ones may come at any time."""

SYSTEM_PACKAGES = (
    "cuda-toolkit*", "cuda-runtime*", "cuda-libraries*", "libnvinfer*", "nvidia-driver-[0-9]*",
    "nvidia-jetpack", "nvidia-l4t-core", "python3-libnvinfer*", "tensorrt*",
)  # fmt: skip
PYTHON_PACKAGES = (
    "arkinfer", "cuda-bindings", "cuda-python", "numpy", "onnxruntime", "tensorrt", "tensorrt-cu12",
    "tensorrt-cu13", "tokenizers", "triton",
)  # fmt: skip

NVIDIA_SMI = ("nvidia-smi", "--format=csv", "--query-gpu=name,driver_version,memory.total,"
              "memory.free,power.limit,clocks.max.sm,temperature.gpu")  # fmt: skip
TEGRASTATS = 3.0
"""Seconds for which tegrastats speaks; it does not end by itself."""

OnStep = Callable[[str], object]


class Missing(Exception):
    """An item that is not to be had here; the text says why."""


class Report:
    """What is known so far, and the file that it is in.

    Args:
        path: the file; what is there is replaced.
        host: this machine.

    Attributes:
        items: by name; of one that is not there {"missing": why}.

    Raises:
        ResourceError: the file cannot be written.
    """

    def __init__(self, path: Path, host: Host) -> None:
        self.path, self.items = path, dict[str, Any]()
        self._home = str(host.path("~"))
        self._facts = {"format": FORMAT, "arkinfer": __version__, "finished": False}
        self._write()

    def add(self, name: str, make: Callable[[], Any]) -> Any:
        """Asks for an item and writes the file with it; what is raised is why it is missing."""
        try:
            found = make()
        except Missing as error:
            found = {"missing": str(error)}
        except Exception as error:  # the others still tell what they found
            found = {"missing": f"looking for it broke down: {type(error).__name__}: {error}"}
        self.items[name] = found
        self._write()
        return found

    def finish(self) -> None:
        self._facts["finished"] = True
        self._write()

    @property
    def missing(self) -> list[str]:
        """Items that are not to be had here."""
        return [name for name, item in self.items.items() if set(item) == {"missing"}]

    def _write(self) -> None:
        """Whole or not at all, and without the name of the user's home."""
        text = json.dumps({**self._facts, **self.items}, indent=2, default=str)
        if self._home not in ("", "/"):
            text = text.replace(json.dumps(self._home)[1:-1], "~")
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            temporary.write_text(text + "\n", "utf-8")
            temporary.replace(self.path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise ResourceError(
                f'The report "{self.path}" cannot be written',
                os.strerror(error.errno or 0),
                "Name another file",
            ) from error


def write_report(
    path: Path, host: Host, file: Path, diagnosis: Diagnosis, on_step: OnStep = lambda what: None
) -> Report:
    """Looks at the machine, and runs a file's sections on it: one for each kind of device.

    Args:
        path: the file to write.
        host: this machine.
        file: an .ark file.
        diagnosis: what came of examining the file here.
        on_step: told what is being done.

    Raises:
        ResourceError: the report cannot be written.
    """
    report = Report(path, host)
    before = read_environment(host.root, packages=())
    report.add("date", lambda: {"utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
    report.add("machine", before.to_json)
    report.add("python", _python)
    report.add("board", lambda: _board(host))
    on_step("asking the system's tools")
    report.add("system_packages", lambda: _system_packages(host))
    report.add("power_mode", lambda: _said(host, "nvpmodel", "-q"))
    report.add("jetson_clocks", lambda: _said(host, "jetson_clocks", "--show"))
    report.add("tegrastats", lambda: _tegrastats(host))
    report.add("nvidia_smi", lambda: _said(host, *NVIDIA_SMI))
    on_step("reading the file")
    report.add("artifact", lambda: _artifact(file))
    report.add("diagnosis", diagnosis.to_json)
    for device, backend, why in _sections(diagnosis):
        if why:
            report.add(device, lambda why=why: _missing(why))
        else:
            report.add(device, lambda backend=backend: _tried(host, file, backend, on_step))
    after = read_environment(host.root, packages=())
    report.add("machine_after", after.to_json)
    report.add("slowed", lambda: {"sentences": disturbed(before, after)})
    report.finish()
    return report


def _sections(diagnosis: Diagnosis) -> Iterator[tuple[str, str, str]]:
    """For each kind of device the first section that runs, else the first and why it does not."""
    for device in sorted(DEVICES, reverse=True):  # a GPU first: it is what people wait for
        there = [one for one in diagnosis.sections if device_of(one.backend) == device]
        runs = next((one for one in there if one.runs), None)
        if runs is not None:
            yield device, runs.backend, ""
        elif there:
            name = there[0].backend
            yield device, name, f"{name} does not run here: {there[0].finding.detail}"
        else:
            yield device, "", f"the file has no section for {DEVICES[device]}"


def _missing(why: str) -> Any:
    raise Missing(why)


def _tried(host: Host, file: Path, backend: str, on_step: OnStep) -> dict[str, Any]:
    return {"backend": backend, **trial(host, str(file), backend, on_step)}


def _python() -> dict[str, Any]:
    found: dict[str, str] = {}
    for name in PYTHON_PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "version": platform.python_version(),
        "closed_environment": sys.prefix != sys.base_prefix,
        "packages": found,
    }


def _board(host: Host) -> dict[str, Any]:
    board = read_jetson(host.root)
    if board is None:
        raise Missing("this is no Jetson: no such device tree, and no /etc/nv_tegra_release")
    pack = board.jetpack
    return {
        "model": board.model,
        "compatible": (host.read("proc/device-tree/compatible") or "").strip(),
        "l4t": board.l4t,
        "jetpack": None if pack is None else pack.name,
        "compute_capability": board.sm,
        "nv_tegra_release": (host.read("etc/nv_tegra_release") or "").strip(),
    }


def _system_packages(host: Host) -> dict[str, str]:
    query = ("dpkg-query", "-W", "-f", "${Package} ${Version}\\n", *SYSTEM_PACKAGES)
    outcome = _run(host, *query)
    lines = [line.split() for line in outcome.out.splitlines()]
    found = {words[0]: words[1] for words in lines if len(words) == 2}
    if not found:
        raise Missing("dpkg knows no package of NVIDIA's here")
    return found


def _said(host: Host, *command: str) -> dict[str, Any]:
    """What a tool says, line by line."""
    outcome = _run(host, *command)
    if not outcome.ok:
        said = f": {outcome.complaint}" if outcome.complaint else ""
        raise Missing(f"{command[0]}: {outcome.problem}{said}")
    return {"lines": outcome.out.strip().splitlines()}


def _tegrastats(host: Host) -> dict[str, Any]:
    outcome = _run(replace(host, seconds=TEGRASTATS), "tegrastats", "--interval", "500")
    lines = outcome.out.strip().splitlines()
    if not lines:
        raise Missing(f"tegrastats says nothing: {outcome.problem or outcome.complaint}")
    return {"lines": lines}


def _run(host: Host, program: str, *words: str) -> Outcome:
    found = host.which(program)
    if found is None:
        raise Missing(f'there is no program "{program}" here')
    return host.run([found, *words])


def _artifact(file: Path) -> dict[str, Any]:
    from arkinfer.artifact import open_artifact

    digest = hashlib.sha256()
    with file.open("rb") as data:
        while part := data.read(1 << 22):
            digest.update(part)
    with open_artifact(file) as artifact:
        manifest = artifact.manifest
        return {
            "name": file.name,
            "sha256": digest.hexdigest(),
            "digest": artifact.digest,
            "size": artifact.size,
            "sections": list(artifact.sections),
            **{key: manifest[key] for key in ("model", "context", "quant", "dtype", "target")},
        }
