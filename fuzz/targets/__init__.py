"""One module per reader: `one(data)` reads bytes as the reader does, `seeds()` gives valid ones.

`one` returns when the reader takes the bytes or refuses them with an error of arkinfer; anything
else that it raises is a bug. The same targets serve atheris (`make fuzz`) and hypothesis
(tests/fuzz). Optional: `DICTIONARY`, words that a mutation may insert; `LENGTH`, the most bytes
of an input; `IS_JSON`, to mutate it as such, too (fuzz/structure.py).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from typing import Protocol, cast


class FuzzTarget(Protocol):
    """What a module of this folder has."""

    one: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]


def names() -> list[str]:
    """All readers, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> FuzzTarget:
    """The target of that name."""
    return cast(FuzzTarget, importlib.import_module(f"fuzz.targets.{name}"))
