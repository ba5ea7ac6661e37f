"""The errors that users see: what happened, why, and what to do. Knows nothing of the rest.

Kinds are named by whose fault it is; each carries the exit code of the command line
(1 failed, 2 usage, 3 a gate was not met, 4 device).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ArkError(Exception):
    """An error in three parts, printed as one clear sentence each.

    Args:
        what: what happened, naming the thing concerned.
        why: the cause, as far as it is known ("" when `what` says it all).
        fix: what the user can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = readable(what), readable(why), readable(fix)
        super().__init__(self.what, self.why, self.fix)

    def __str__(self) -> str:
        parts = [self.what, self.why, self.fix]
        return " ".join(p if p.endswith((".", "?", "!")) else p + "." for p in parts if p)


class UsageError(ArkError):
    """The request itself cannot be met: a wrong path, name, option or prompt."""

    exit_code = 2


class CheckpointError(ArkError):
    """The checkpoint is damaged, incomplete or not what its config says."""


class UnsupportedError(ArkError):
    """The model or the request is well-formed, but arkinfer does not support it."""


class ArtifactError(ArkError):
    """An .ark file, or a state saved by one, is damaged, foreign, or of a version that this
    arkinfer cannot read."""


class ResourceError(ArkError):
    """Memory, disk or permission is missing."""


class GateError(ArkError):
    """A quality or size gate was not met."""

    exit_code = 3


class DeviceError(ArkError):
    """This device lacks what the artifact or the target needs."""

    exit_code = 4


class InternalError(ArkError):
    """arkinfer broke one of its own rules; a bug to report."""


def readable(text: str) -> str:
    """At most 4,000 characters that steer no terminal: a message may quote a foreign file.

    >>> readable("no tensor \\x1b[2J")
    'no tensor ?[2J'
    """
    if len(text) > 4000:
        text = f"{text[:2000]} […] {text[-1900:]}"
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def nearest(name: str, known: Iterable[str]) -> str:
    """The fix for an unknown name: the nearest known one, else the list of all.

    >>> nearest("jetson-orn", ["cpu", "jetson-orin"])
    'Did you mean "jetson-orin"? Known: cpu, jetson-orin.'
    """
    names = sorted(known)
    return f"{did_you_mean(name, names)}Known: {', '.join(names)}."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question with the nearest known name, and a space; "" where none is near."""
    close = difflib.get_close_matches(name[:200], list(known), n=1, cutoff=0.6)
    return f'Did you mean "{close[0]}"? ' if close else ""
