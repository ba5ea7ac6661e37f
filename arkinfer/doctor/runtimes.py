"""What can run a section here: the executors that are installed, and the packages they need.

Knows executors by their entry points only.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from arkinfer import __version__
from arkinfer.doctor import gpu
from arkinfer.doctor.finding import Finding
from arkinfer.doctor.host import Host
from arkinfer.doctor.install import pip
from arkinfer.runtime.registry import EXTRAS, device_of, executors
from arkinfer.runtime.versions import satisfies

ITSELF = "arkinfer"

MODULES = {"apache-tvm": "tvm", "cuda-bindings": "cuda.bindings"}
"""What a package is imported as, where that is not its name."""

_REQUIREMENT = re.compile(
    r"(?P<name>[\w.-]+)(?:\[.*?\])? ?\(?(?P<range>[^;) ]*)\)?(?P<when> ?;.*)?"
)


def check(host: Host) -> list[Finding]:
    """A finding for arkinfer itself, and one for each executor."""
    known = executors()
    if not known:
        fix = pip(host, "arkinfer[ort]")
        return [Finding("executors", "missing", "arkinfer was never installed here", fix)]
    return [itself(host), *(_executor(host, name) for name in sorted(known))]


def itself(host: Host) -> Finding:
    """Whether the packages that arkinfer always needs are there, as pip has noted them."""
    wrong: list[str] = []
    for name, wanted in requirements("").items():
        try:
            found = version(name)
        except PackageNotFoundError:
            wrong.append(f"{name} is not installed")
            continue
        if not satisfies(found, wanted):
            wrong.append(f"{name} is {found}, and {wanted} is needed")
    if wrong:
        return Finding(ITSELF, "broken", "; ".join(wrong), pip(host, "arkinfer"))
    return Finding(ITSELF, "ok", __version__, notes=(str(Path(__file__).parents[1]),))


def _executor(host: Host, name: str) -> Finding:
    if device_of(name) == "gpu" and not gpu.is_there(host):
        return Finding(name, "missing", "there is no NVIDIA GPU here")  # which nothing mends
    answer = host.ask("executor", name)
    if answer.state != "ok":
        return Finding(name, answer.state, answer.detail, answer.fix, answer.notes)
    extra = EXTRAS.get(name)
    wanted = {} if extra is None else requirements(extra)
    found = [package(host, each, spec, extra or "") for each, spec in wanted.items()]
    bad = next((finding for finding in found if finding.state != "ok"), None)
    if bad is not None:
        return Finding(name, bad.state, f"{bad.name}: {bad.detail}", bad.fix, bad.notes)
    notes = tuple(note for finding in found for note in finding.notes)
    return Finding(name, "ok", ", ".join(f"{f.name} {f.detail}" for f in found), notes=notes)


def requirements(extra: str) -> dict[str, str]:
    """The packages that an extra of arkinfer installs, each with its range of versions.

    Those of the extra "" are always installed; what only other Pythons need is not among them.
    """
    try:
        lines = requires("arkinfer") or []
    except PackageNotFoundError:
        return {}
    found: dict[str, str] = {}
    for line in lines:
        match = _REQUIREMENT.fullmatch(line)
        if match is None or match["name"] == "arkinfer":
            continue
        of = re.search(r"extra == ['\"](.+?)['\"]", match["when"] or "")
        if (of[1] if of else "") == extra and "python_version" not in (match["when"] or ""):
            found[match["name"]] = match["range"]
    return found


def package(host: Host, name: str, wanted: str, extra: str) -> Finding:
    """Whether a Python package is there, can be imported, and is of a version that will do."""
    answer = host.ask("package", MODULES.get(name, name.replace("-", "_")))
    install = pip(host, f"arkinfer[{extra}]")
    if answer.state == "missing":
        return Finding(name, "missing", "it is not installed", install, answer.notes)
    if answer.state == "broken":
        again = pip(host, f"{name}{wanted}") + " --force-reinstall"
        detail = f"importing it fails: {answer.detail}"
        return Finding(name, "broken", detail, again, answer.notes)
    if answer.state == "not known":
        return Finding(name, "not known", f"importing it: {answer.detail}", notes=answer.notes)
    there = str(answer.facts["version"])
    notes = (f"{name} {there}: {answer.facts['path']}",)
    try:
        fits = satisfies(there, wanted) if wanted and there else True
    except ValueError:
        return Finding(name, "ok", there, notes=(*notes, f"range {wanted} was not checked"))
    if not fits:
        detail = f"version {there} is installed, arkinfer needs {wanted}"
        return Finding(name, "broken", detail, pip(host, f"{name}{wanted}"), notes)
    return Finding(name, "ok", there or "of unknown version", notes=notes)
