"""Which facts of two manifests differ. Knows no weights and no graph."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from arkinfer.artifact import Manifest

ELSEWHERE = ("tensors", "entries")
"""Keys that are compared entry by entry, not as facts."""

OF_SECTIONS = ("activations", "caches", "variants")
"""What a section says of itself in words, beside `requires` and `config`."""

ABSENT = object()


@dataclass(frozen=True)
class Fact:
    """A fact that differs.

    Attributes:
        key: where it stands, e.g. "model.hidden_size" or "sections.tvm.config.isa".
        a: its value in the first artifact, as JSON; None: it is not there.
        b: in the second.
    """

    key: str
    a: str | None
    b: str | None


def differing_facts(a: Manifest, b: Manifest) -> list[Fact]:
    """The facts that differ, in the order of the manifests.

    A section that only one of them has is a name in "sections", and nothing more.
    """
    first, second = dict(_leaves(_plain(a))), dict(_leaves(_plain(b)))
    ours, theirs = _sections(a), _sections(b)
    for backend in [backend for backend in ours if backend in theirs]:
        first |= ours[backend]
        second |= theirs[backend]
    keys = [*first, *(key for key in second if key not in first)]
    return [
        Fact(key, _json(first.get(key, ABSENT)), _json(second.get(key, ABSENT)))
        for key in keys
        if first.get(key, ABSENT) != second.get(key, ABSENT)
    ]


def _plain(manifest: Manifest) -> dict[str, Any]:
    """The manifest without the lists of what it stores; of its sections, their names."""
    facts: dict[str, Any] = {k: v for k, v in manifest.items() if k not in ELSEWHERE}
    facts["sections"] = [section["backend"] for section in manifest["sections"]]
    return facts


def _sections(manifest: Manifest) -> dict[str, dict[str, Any]]:
    """What each section says of itself, by place; what is deeper in its config stays whole."""
    found: dict[str, dict[str, Any]] = {}
    for section in manifest["sections"]:
        facts = cast("dict[str, Any]", section)
        at = f"sections.{section['backend']}"
        own = {f"{at}.{key}": facts[key] for key in OF_SECTIONS if key in facts}
        for part in ("requires", "config"):
            own |= {f"{at}.{part}.{key}": value for key, value in facts[part].items()}
        found[section["backend"]] = own
    return found


def _leaves(value: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        place = f"{at}.{key}" if at else key
        if isinstance(item, dict):
            yield from _leaves(cast("dict[str, Any]", item), place)
        else:
            yield place, item


def _json(value: object) -> str | None:
    return None if value is ABSENT else json.dumps(value)
