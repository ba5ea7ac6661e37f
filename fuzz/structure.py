"""Mutations of JSON that keep it JSON: other values at its places, places gone or doubled.

Bytes alone rarely get past a parser; this gets to what comes after it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any

BREAK = b"\n---\n"
"""Between the parts of an input that stands for several files."""

_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 7, 255, 65536, 2**31, 2**48, 2**63, 2**64, 10**40, 0.5, -0.0,
    1e-320, 1e308, float("inf"), float("nan"), "", "a", "\x00", "\x1b[2J", "\ud800", "ü",
    "x" * 300, "../x", "{{ x }}", [], {}, [[]], [None], {"": 0}, [1, 2], [0, 10**30], {"a": {}},
]  # fmt: skip


def mutate(data: bytes, random: Random, words: Sequence[str] = ()) -> bytes | None:
    """The same with up to three changes in one of its JSON parts; None: it has none."""
    parts = data.split(BREAK)
    index = random.randrange(len(parts))
    part = parts[index]
    start, end = part.find(b"{"), part.rfind(b"}") + 1
    try:
        value = {"": json.loads(part[start:end])}
    except (ValueError, RecursionError):
        return None
    for _ in range(random.randint(1, 3)):
        _change(value, random, words)
    try:
        text = json.dumps(value.get("", {}), separators=(",", ":")).encode()
    except (RecursionError, ValueError):
        return None
    parts[index] = part[:start] + text + part[end:]
    return BREAK.join(parts)


def _change(root: dict[str, Any], random: Random, words: Sequence[str]) -> None:
    places = _places(root)
    holder, key = random.choice(places)
    other, there = random.choice(places)
    kind = random.randrange(8)
    if kind < 3:
        holder[key] = _new(random, words)
    elif kind == 3:
        holder[key] = json.loads(json.dumps(other[there]))
    elif kind == 4 and holder is not root:
        del holder[key]
    elif kind == 5:
        holder[key] = [holder[key]] * random.choice([1, 2, 9, 300])
    elif kind == 6 and isinstance(holder, dict) and holder is not root:
        holder[random.choice([*words, str(there)])] = holder.pop(key)
    elif isinstance(holder[key], dict):
        holder[key][random.choice([*words, "x"])] = _new(random, words)
    elif isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
        holder[key] = random.choice([holder[key] + 1, -holder[key], holder[key] * 2])


def _new(random: Random, words: Sequence[str]) -> Any:
    if words and random.random() < 0.3:
        return random.choice(words)
    return json.loads(json.dumps(random.choice(_VALUES)))


def _places(root: dict[str, Any]) -> list[tuple[Any, Any]]:
    """(container, key or index) of every value, some of a long list's only."""
    found: list[tuple[Any, Any]] = []
    waiting: list[Any] = [root]
    while waiting and len(found) < 2000:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))[:50]
        found += [(holder, key) for key in keys]
        waiting += [holder[key] for key in keys if isinstance(holder[key], (dict, list))]
    return found
