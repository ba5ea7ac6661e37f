"""Runs the checks side by side and says in one sentence what came of it. Knows no terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from arkinfer.doctor import builders, disk, gpu, machine, runtimes, sections, toolchain
from arkinfer.doctor.finding import Check, Finding, Group
from arkinfer.doctor.host import Host
from arkinfer.doctor.sections import SectionState
from arkinfer.errors import UsageError
from arkinfer.machine.environment import read_environment

if TYPE_CHECKING:
    from arkinfer.artifact import Artifact

RUN, BUILD, MACHINE, DISK = "run", "build", "this machine", "disk"

CHECKS: dict[str, tuple[Check, ...]] = {
    RUN: (runtimes.check,),
    BUILD: (builders.check, toolchain.check),
    MACHINE: (machine.check, gpu.check),
    DISK: (disk.check,),
}
"""By the title of their group."""

RUN_CHECKS: dict[str, tuple[Check, ...]] = {
    MACHINE: CHECKS[MACHINE],
    DISK: (disk.check_temporary,),
}
"""What matters to somebody who runs a file that is built."""


@dataclass(frozen=True)
class Diagnosis:
    """What came of an examination.

    Attributes:
        groups: all findings.
        summary: one sentence: what runs here, and why the rest does not.
        ok: whether something runs here: the artifact, or without one any executor.
        backend: whose section of the artifact runs; None: none does, or there is no artifact.
        sections: the artifact's.
    """

    groups: list[Group]
    summary: str
    ok: bool
    backend: str | None = None
    sections: list[SectionState] = field(default_factory=list[SectionState])

    @property
    def gaps(self) -> int:
        return sum(len(group.gaps) for group in self.groups)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {
            "ok": self.ok,
            "summary": self.summary,
            "gaps": self.gaps,
            "backend": self.backend,
            "sections": [sections.needs_json(section) for section in self.sections],
            "groups": [
                {"title": group.title, "findings": [f.to_json() for f in group.findings]}
                for group in self.groups
            ],
        }


def examine(host: Host) -> Diagnosis:
    """What this machine runs and builds."""
    groups = _run_checks(host, CHECKS)
    by_title = {group.title: group.findings for group in groups}
    runs = [f.name for f in by_title[RUN] if f.state == "ok" and f.name != runtimes.ITSELF]
    builds = [
        finding.name.removeprefix("target ")
        for finding in by_title[BUILD]
        if finding.state == "ok" and finding.name.startswith("target ")
    ]
    if runs:
        summary = f"This machine runs artifacts by {listed(runs)}"
        summary += f", and builds for {listed(builds)}." if builds else ", and builds nothing."
    else:
        summary = "Nothing runs on this machine."
    return Diagnosis(groups, summary, bool(runs))


def examine_artifact(
    host: Host,
    artifact: Artifact,
    backend: str | None = None,
    context: int | None = None,
    device: str | None = None,
) -> Diagnosis:
    """Whether and how an artifact runs here.

    Args:
        host: this machine.
        artifact: an open one.
        backend: the section that is wanted; None: the artifact's first, as `arkinfer run` does.
        context: tokens that its caches shall hold; None: all that it was built for.
        device: "cpu" or "gpu": the first section that runs there, instead of `backend`.

    Raises:
        UsageError: the artifact has no section of that backend, or not so long a context.
        ArtifactError: it has no section at all.
    """
    from arkinfer.runtime.registry import choose_section

    wanted = choose_section(artifact, backend, device).backend
    longest = artifact.manifest["context"]
    if context is not None and not 1 <= context <= longest:
        raise UsageError(
            f"The context cannot be {context} tokens",
            f"The artifact was built for {longest}",
            f"Give a number from 1 to {longest}",
        )
    found = sections.check_sections(host, artifact)
    by_name = {section.backend: section for section in found}
    runs = [section.backend for section in found if section.runs]
    others = () if backend or device else runs
    chosen = wanted if by_name[wanted].runs else next(iter(others), None)
    room: list[Finding] = []
    if chosen is not None:
        room = [_room(host, by_name[chosen], context or longest, artifact)]
    fits = not room or room[0].state != "broken"
    groups = [Group("sections", [section.finding for section in found] + room)]
    groups += _run_checks(host, _checks_for(artifact))
    summary = _summary(artifact.path.name, found, wanted, chosen if fits else None, room)
    return Diagnosis(groups, summary, chosen is not None and fits, chosen if fits else None, found)


def _checks_for(artifact: Artifact) -> dict[str, tuple[Check, ...]]:
    """Those of every run; what sections for a GPU are finished to is kept in the cache."""
    from arkinfer.runtime.registry import device_of

    if all(device_of(name) == "cpu" for name in artifact.sections):
        return RUN_CHECKS
    return {**RUN_CHECKS, DISK: (*RUN_CHECKS[DISK], disk.check_cache)}


def _room(host: Host, section: SectionState, context: int, artifact: Artifact) -> Finding:
    free = machine.available(read_environment(host.root, packages=()))
    return sections.memory(section, context, free, str(artifact.path))


def _summary(
    name: str, found: list[SectionState], wanted: str, chosen: str | None, room: list[Finding]
) -> str:
    """Which section runs, and why each of the others does not."""
    reasons = [
        f"{section.backend} does not: {section.finding.detail}"
        for section in found
        if not section.runs
    ]
    if chosen == wanted:
        head = f"{name} runs here by {chosen}"
    elif chosen is not None:
        head = f"{name} runs here with {_asking_for(chosen, found)} only"
    else:
        head = f"{name} does not run here"
        if room and room[0].state == "broken":
            reasons.insert(0, f"its weights do not fit: {room[0].detail}")
    return "; ".join([head, *reasons]) + "."


def _asking_for(chosen: str, found: list[SectionState]) -> str:
    """The option that takes a section which is not the first."""
    from arkinfer.runtime.registry import device_of

    device = device_of(chosen)
    first = next(one.backend for one in found if device_of(one.backend) == device)
    differs = device_of(found[0].backend) != device
    return f"--device {device}" if first == chosen and differs else f"--backend {chosen}"


def _run_checks(host: Host, checks: Mapping[str, tuple[Check, ...]]) -> list[Group]:
    """Groups in the order of their titles; the checks run side by side."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        futures = {
            title: [pool.submit(_guarded, check, host) for check in each]
            for title, each in checks.items()
        }
        return [
            Group(title, [finding for future in each for finding in future.result()])
            for title, each in futures.items()
        ]


def _guarded(check: Callable[[Host], list[Finding]], host: Host) -> list[Finding]:
    """A check that breaks down is a finding: the others still tell what they found."""
    try:
        return check(host)
    except Exception as error:
        name = check.__module__.rpartition(".")[2]
        return [Finding(name, "not known", f"the check broke down: {error!r}")]


def listed(names: Sequence[str]) -> str:
    """Words as a list in a sentence.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
