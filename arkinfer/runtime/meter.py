"""What a foreign template may spend: steps of work and bytes of memory, counted as it goes.

Knows Jinja's error and its namespace, and no conversation.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import Any, cast

import jinja2
import jinja2.nodes
import jinja2.utils

STEPS = 500_000
"""Work that a template may do: about 400 steps a turn are usual, 5 million take some seconds."""
BYTES = 32 << 20
"""Memory that all its values together may take, also those that it has dropped."""
PER_BYTE = 16
"""Steps and bytes that a template may spend for each byte of the conversation, on top."""
DEPTH = 64
"""The deepest nesting of lists and objects."""
BITS = 4096
"""The largest whole number."""

ELEMENT = 64
"""Bytes of an element of a list or object, next to its own."""


class LimitReached(jinja2.TemplateRuntimeError):
    """The template asks for more work or memory than any chat needs."""


class Meter:
    """What a rendering may still spend.

    Args:
        size: of the conversation in bytes, which allows for more.
    """

    def __init__(self, size: int = 0) -> None:
        self.steps = STEPS + PER_BYTE * size
        self.bytes = BYTES + PER_BYTE * size

    def step(self, count: int = 1) -> None:
        self.steps -= count
        if self.steps < 0:
            raise LimitReached(f"it does more work than {STEPS:,} steps")

    def room(self, size: int) -> None:
        """Checks that something of so many bytes may be made."""
        if size > self.bytes:
            raise LimitReached(f"it makes more text than {BYTES >> 20} MiB")

    def make(self, value: Any) -> Any:
        """Pays for a value that an operation made."""
        size = self.weigh(value)
        self.room(size)
        self.bytes -= size
        return value

    def weigh(self, value: Any) -> int:
        """Bytes of a value as if nothing in it were shared; pays for looking at all of it."""
        size, level, depth = 0, [value], 0
        while level:
            inner: list[Any] = []
            for item in level:
                size += ELEMENT
                if isinstance(item, (str, bytes)):
                    size += sys.getsizeof(item)
                    self.step(len(item) >> 6)
                elif isinstance(item, Mapping):
                    inner += [*item.keys(), *item.values()]
                elif isinstance(item, (list, tuple, set, frozenset)):
                    inner += cast("list[Any]", item)
                elif isinstance(item, int) and item.bit_length() > BITS:
                    raise LimitReached(f"it makes a number of more than {BITS:,} bits")
                elif isinstance(item, jinja2.utils.Namespace):
                    raise LimitReached("it uses a namespace as a value")
                elif isinstance(item, range):
                    size += ELEMENT * len(item)
                self.room(size + ELEMENT * len(inner))
            self.step(len(inner) + 1)
            level, depth = inner, depth + 1
            if depth > DEPTH:
                raise LimitReached(f"it nests values more than {DEPTH} levels deep")
        return size

    def all(self, items: Iterable[Any]) -> list[Any]:
        """What an iterator gives, as a list."""
        found = list(islice(items, self.bytes // ELEMENT + 1))
        self.room(ELEMENT * len(found))
        return found


_METER: ContextVar[Meter] = ContextVar("meter")


def current() -> Meter:
    """The meter of the rendering that is under way."""
    try:
        return _METER.get()
    except LookupError:  # the compiler tries out what it takes for constant
        raise jinja2.nodes.Impossible from None


@contextmanager
def metered(conversation: Any) -> Generator[Meter, None, None]:
    """Within, templates may be rendered: with what a conversation of that size is allowed."""
    unbounded = Meter(1 << 40)
    meter = Meter(unbounded.weigh(conversation))
    token = _METER.set(meter)
    try:
        yield meter
    finally:
        _METER.reset(token)
