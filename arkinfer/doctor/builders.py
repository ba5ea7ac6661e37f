"""What can be built here, and for which target: packages, and each backend's compiler.

Knows compilers by their entry points only, and loads none of them in this process.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from arkinfer.doctor.finding import Finding
from arkinfer.doctor.host import Host
from arkinfer.doctor.install import pip
from arkinfer.doctor.runtimes import package, requirements

EXTRA = "build"

T = TypeVar("T")


def check(host: Host) -> list[Finding]:
    """A finding for the packages of a build, and one or more for each target."""
    from arkinfer.targets import target_names  # not before: it may be what is broken

    packages = _packages(host)
    if all(finding.state == "missing" for finding in packages):
        return packages
    return [*packages, *(finding for name in target_names() for finding in target(host, name))]


def _packages(host: Host) -> list[Finding]:
    """Those that are there, in one finding; those that are missing, too; broken ones by name."""
    wanted = requirements(EXTRA)
    found = _side_by_side(
        [lambda n=name, w=spec: package(host, n, w, EXTRA) for name, spec in wanted.items()]
    )
    good = [finding for finding in found if finding.state == "ok"]
    missing = [finding for finding in found if finding.state == "missing"]
    other = [finding for finding in found if finding.state in ("broken", "not known")]
    result: list[Finding] = []
    if good:
        detail = ", ".join(f"{finding.name} {finding.detail}" for finding in good)
        notes = tuple(note for finding in good for note in finding.notes)
        result.append(Finding("packages", "ok", detail, notes=notes))
    if missing or not found:
        names = ", ".join(finding.name for finding in missing) or "arkinfer itself"
        fix = pip(host, f"arkinfer[{EXTRA}]")
        result.append(Finding("packages", "missing", f"not installed: {names}", fix))
    return result + other


def target(host: Host, name: str) -> list[Finding]:
    """The backends that compile for a target in one finding, the others by name."""
    from arkinfer.targets import load_target

    backends = load_target(name).backends
    answers = _side_by_side([lambda b=each: host.ask("compiler", b, name) for each in backends])
    pairs = list(zip(backends, answers, strict=True))
    good = [backend for backend, answer in pairs if answer.state == "ok"]
    result = [
        Finding(f"{name} by {backend}", answer.state, answer.detail, answer.fix, answer.notes)
        for backend, answer in pairs
        if answer.state != "ok"
    ]
    if good:
        result.insert(0, Finding(f"target {name}", "ok", f"by {', '.join(good)}"))
    return result


def _side_by_side(questions: list[Callable[[], T]]) -> list[T]:
    """Two at a time: they wait for the disk, then compute."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        return [future.result() for future in [pool.submit(each) for each in questions]]
