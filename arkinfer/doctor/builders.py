"""What can be built here, and for which target: packages, and each backend's compiler.

Knows compilers by their entry points only, and loads none of them in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from arkinfer.doctor.finding import Finding
from arkinfer.doctor.host import Answer, Host
from arkinfer.doctor.install import pip
from arkinfer.doctor.runtimes import package, requirements

if TYPE_CHECKING:
    from arkinfer.targets import Target

EXTRA = "build"

T = TypeVar("T")


def check(host: Host) -> list[Finding]:
    """A finding for the packages of a build, and one or more for each target."""
    packages = _packages(host)
    if all(finding.state == "missing" for finding in packages):
        return packages
    from arkinfer.targets import target_names  # not before: it may be what is broken

    return [*packages, *targets(host, target_names())]


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


def targets(host: Host, names: Sequence[str]) -> list[Finding]:
    """For each target the backends that compile for it in one finding, the others by name.

    Each backend is asked once, about all of its targets: to load it takes longer than to answer.
    """
    from arkinfer.targets import load_target

    wanted = {name: _builders(load_target(name)) for name in names}
    backends = list(dict.fromkeys(each for known in wanted.values() for each in known))
    asked = [[name for name in names if each in wanted[name]] for each in backends]
    questions = [
        partial(host.ask, "compiler", each, *about)
        for each, about in zip(backends, asked, strict=True)
    ]
    answers = dict(zip(backends, _side_by_side(questions), strict=True))
    return [finding for name in names for finding in _target(name, wanted[name], answers)]


def _builders(target: Target) -> tuple[str, ...]:
    """Those that a target names, also the one for a board's own cores."""
    return tuple(dict.fromkeys((*target.backends, *((target.cpu,) if target.cpu else ()))))


def _target(name: str, backends: Sequence[str], answers: Mapping[str, Answer]) -> list[Finding]:
    """The backends that compile for a target in one finding, the others by name."""
    good: list[str] = []
    result: list[Finding] = []
    for backend in backends:
        found = answers[backend]
        if found.state == "ok":
            found = Answer.of(found.facts[name], found.notes)
        if found.state == "ok":
            good.append(backend)
        else:
            title = f"{name} by {backend}"
            result.append(Finding(title, found.state, found.detail, found.fix, found.notes))
    if good:
        result.insert(0, Finding(f"target {name}", "ok", f"by {', '.join(good)}"))
    return result


def _side_by_side(questions: Sequence[Callable[[], T]]) -> list[T]:
    """Two at a time: they wait for the disk, then compute."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        return [future.result() for future in [pool.submit(each) for each in questions]]
