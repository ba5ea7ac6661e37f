"""What can run a section here: the executors that are installed, and the packages they need.

Knows executors by their entry points only.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires

from arkinfer.doctor.finding import Finding
from arkinfer.doctor.host import Host
from arkinfer.doctor.install import pip
from arkinfer.runtime.registry import EXTRAS, executors
from arkinfer.runtime.versions import satisfies

MODULES = {"apache-tvm": "tvm"}
"""What a package is imported as, where that is not its name."""


def check(host: Host) -> list[Finding]:
    """A finding for each executor."""
    known = executors()
    if not known:
        fix = pip(host, "arkinfer[ort]")
        return [Finding("executors", "missing", "arkinfer was never installed here", fix)]
    return [_executor(host, name) for name in sorted(known)]


def _executor(host: Host, name: str) -> Finding:
    answer = host.ask("executor", name)
    if answer.state != "ok":
        return Finding(name, answer.state, answer.detail, answer.fix, answer.notes)
    extra = EXTRAS.get(name, "")
    found = [package(host, each, wanted, extra) for each, wanted in requirements(extra).items()]
    bad = next((finding for finding in found if finding.state != "ok"), None)
    if bad is not None:
        return Finding(name, bad.state, f"{bad.name}: {bad.detail}", bad.fix, bad.notes)
    notes = tuple(note for finding in found for note in finding.notes)
    return Finding(name, "ok", ", ".join(f"{f.name} {f.detail}" for f in found), notes=notes)


def requirements(extra: str) -> dict[str, str]:
    """The packages that an extra of arkinfer installs, each with its range of versions."""
    try:
        lines = requires("arkinfer") or []
    except PackageNotFoundError:
        return {}
    pattern = re.compile(
        r"([\w.-]+)\s*(?:\[.*?\])?\s*\(?([^;)]*)\)?\s*;.*\bextra == ['\"](.+)['\"]"
    )
    found = [match.groups() for line in lines if (match := pattern.match(line))]
    return {
        name: wanted.strip() for name, wanted, of in found if of == extra and name != "arkinfer"
    }


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
    version = str(answer.facts["version"])
    notes = (f"{name} {version}: {answer.facts['path']}",)
    try:
        fits = satisfies(version, wanted) if wanted and version else True
    except ValueError:
        return Finding(name, "ok", version, notes=(*notes, f"range {wanted} was not checked"))
    if not fits:
        detail = f"version {version} is installed, arkinfer needs {wanted}"
        return Finding(name, "broken", detail, pip(host, f"{name}{wanted}"), notes)
    return Finding(name, "ok", version or "of unknown version", notes=notes)
