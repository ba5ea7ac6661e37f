"""What a check found, and what mends it. Knows no check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from arkinfer.doctor.host import Host

State: TypeAlias = Literal["ok", "missing", "broken", "not known"]
"""`missing`: it is not here; `broken`: it is, and does not work; `not known`: see the detail."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what.
        state: how it is.
        detail: a version, an amount, or why the state is not ok.
        fix: the command that mends it; "" where nothing needs mending, or no command does.
        notes: paths, commands and outputs, for those who want to know how it was found out.
    """

    name: str
    state: State
    detail: str = ""
    fix: str = ""
    notes: tuple[str, ...] = ()

    @property
    def gap(self) -> bool:
        """Whether it wants mending: it is broken, or a command would mend it."""
        return self.state == "broken" or (self.state != "ok" and bool(self.fix))

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {
            "name": self.name,
            "state": self.state,
            "detail": self.detail,
            "fix": self.fix,
            "notes": list(self.notes),
        }


Check: TypeAlias = Callable[["Host"], list[Finding]]


@dataclass(frozen=True)
class Group:
    """Findings of one family, under a title."""

    title: str
    findings: list[Finding] = field(default_factory=list[Finding])

    @property
    def gaps(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.gap]
