"""The form in which the compiler hands a step to the executor: a list of kernel calls, as JSON,
and a list of the places where values of the IR can be seen on the way.

Shared by both halves; knows no IR, no TVM and no file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

INTERFACE = 1
"""Raised when programs or the launcher change so that an older executor cannot run them."""

Kind: TypeAlias = Literal["dim", "scratch", "weight", "cache", "port"]


@dataclass(frozen=True)
class Dimension:
    """A number that is known when a step begins: sum of factor * symbol, plus a constant."""

    terms: tuple[tuple[str, int], ...] = ()
    constant: int = 0

    def value(self, symbols: Mapping[str, int]) -> int:
        return sum(factor * symbols[name] for name, factor in self.terms) + self.constant


@dataclass(frozen=True)
class Operand:
    """Where an argument of a kernel points to.

    Attributes:
        kind: "dim" (entry `key` of the program's dims), "scratch" (byte `key` of the scratch
            memory), "weight" (the artifact's tensor of that name), "cache" (that one of the
            state's caches), "port" (an input or output of the step, by name).
        key: see there.
    """

    kind: Kind
    key: int | str


@dataclass(frozen=True)
class Cache:
    """The keys or values of a layer, [capacity, heads, size] of "float32" or "int8"."""

    heads: int
    size: int
    dtype: str


@dataclass(frozen=True)
class Program:
    """One step.

    Attributes:
        dims: numbers that kernels read through pointers.
        operands: what calls refer to by index.
        calls: kernel name and operands, in order.
        caches: what a state must bring.
        scratch: bytes of memory for what lives between kernels.
    """

    dims: tuple[Dimension, ...]
    operands: tuple[Operand, ...]
    calls: tuple[tuple[str, tuple[int, ...]], ...]
    caches: tuple[Cache, ...]
    scratch: int

    def to_json(self) -> bytes:
        facts = asdict(self)
        facts["operands"] = [[operand.kind, operand.key] for operand in self.operands]
        return json.dumps(facts, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Program:
        """The inverse of `to_json`."""
        facts: dict[str, Any] = json.loads(data)
        return cls(
            dims=tuple(
                Dimension(tuple((n, f) for n, f in d["terms"]), d["constant"])
                for d in facts["dims"]
            ),
            operands=tuple(Operand(kind, key) for kind, key in facts["operands"]),
            calls=tuple((name, tuple(arguments)) for name, arguments in facts["calls"]),
            caches=tuple(Cache(**cache) for cache in facts["caches"]),
            scratch=facts["scratch"],
        )


@dataclass(frozen=True)
class Seen:
    """Where a value of the IR can be seen: rows of an array, from the end of a call on.

    Attributes:
        value: its name in the section's `module.ir`.
        call: how many calls of the program must have run; a later one may overwrite it.
        place: the operand where the array starts: scratch memory, a port or a cache.
        count: the operand that says how many rows there are.
        row: the IR type's shape without its first dim.
        stride: elements from one row to the next.
        offset: elements before the first row.
        dtype: of the elements, as numpy names it.
    """

    value: str
    call: int
    place: Operand
    count: Operand
    row: tuple[int, ...]
    stride: int
    offset: int
    dtype: str


def seen_to_json(values: Sequence[Seen]) -> bytes:
    """What `seen_from_json` reads."""
    facts = [asdict(value) for value in values]
    return json.dumps(facts, separators=(",", ":")).encode()


def seen_from_json(data: bytes) -> list[Seen]:
    """The inverse of `seen_to_json`."""
    facts: list[dict[str, Any]] = json.loads(data)
    for f in facts:
        f["place"], f["count"] = Operand(**f["place"]), Operand(**f["count"])
        f["row"] = tuple(f["row"])
    return [Seen(**f) for f in facts]
