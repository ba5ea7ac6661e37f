"""Which section of an artifact runs here, why the others cannot, and whether there is memory.

Executors' own checks decide, in a process of their own. Knows no backend by name.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from arkinfer.doctor.finding import Finding
from arkinfer.doctor.host import Host
from arkinfer.runtime.footprint import run_bytes
from arkinfer.words import human

if TYPE_CHECKING:
    from arkinfer.artifact import Artifact, Section


@dataclass(frozen=True)
class SectionState:
    """A section, and how this machine gets on with it.

    Attributes:
        backend: its name.
        finding: "ok" when it runs here; "not known" when its executor does not say beforehand.
        requires: version ranges by package, as the artifact states them.
        weights: bytes that it loads.
        per_token: bytes of its caches for each token; None: not known.
    """

    backend: str
    finding: Finding
    requires: dict[str, str]
    weights: int
    per_token: int | None

    @property
    def runs(self) -> bool:
        """Nothing that is known speaks against it."""
        known = self.finding.state in ("ok", "not known")
        return known and not self.finding.fix


def check_sections(host: Host, artifact: Artifact) -> list[SectionState]:
    """The sections in the artifact's order."""
    return [_section(host, artifact, section) for section in artifact.sections.values()]


def _section(host: Host, artifact: Artifact, section: Section) -> SectionState:
    answer = host.ask("section", str(artifact.path.absolute()), section.backend)
    weights = artifact.section_bytes(section.backend)
    needs = ", ".join(f"{name} {wanted}" for name, wanted in section.requires.items())
    detail = f"needs {needs}" if needs else "needs no package"
    per_token: int | None = None
    if answer.state != "ok":
        found = Finding(section.backend, answer.state, answer.detail, answer.fix, answer.notes)
    elif not answer.facts["known"]:
        why = "its executor cannot tell before it loads the section"
        found = Finding(section.backend, "not known", f"{detail}; {why}")
    else:
        per_token = int(answer.facts["per_token"])
        found = Finding(section.backend, "ok", detail)
    return SectionState(section.backend, found, dict(section.requires), weights, per_token)


def memory(section: SectionState, context: int, available: int | None, file: str) -> Finding:
    """Whether a section of a file fits into free memory, with caches for `context` tokens."""
    if section.per_token is None:
        return Finding("memory", "not known", "the section does not say how large its caches are")
    need = run_bytes(section.weights, section.per_token * context)
    detail = f"about {human(need)} for {context:,} tokens of context"
    if available is None:
        return Finding("memory", "not known", f"{detail}; how much is free cannot be read here")
    said = f"{detail}, {human(available)} free"
    if need <= available:
        return Finding("memory", "ok", said)
    room = (available - run_bytes(section.weights, 0)) // max(section.per_token, 1)
    fitting = min(context, room // 256 * 256)
    if fitting < 256:
        fix = "close other programs, or build it with a smaller --quant"
        return Finding("memory", "broken", f"{said}: not even the weights fit", fix)
    fix = f"arkinfer run {shlex.quote(file)} --context {fitting}"
    return Finding("memory", "missing", f"{said}: a shorter context fits", fix)


def needs_json(section: SectionState) -> dict[str, Any]:
    """Plain values, for `--json`."""
    return {
        "backend": section.backend,
        "runs": section.runs,
        "requires": section.requires,
        "weights": section.weights,
        "cache_bytes_per_token": section.per_token,
        **{k: v for k, v in section.finding.to_json().items() if k != "name"},
    }
