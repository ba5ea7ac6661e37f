"""The form in which the compiler hands a step to the executor: a list of kernel calls, as JSON,
and a list of the places where values of the IR can be seen on the way.

Shared by both halves; knows no IR, no TVM and no file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from arkinfer.limits import LARGEST_DIM, count, parse_json

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
    """The keys or values of a layer, [capacity, heads, size] of "float32" or "int8"; or the scales
    of these, one a token and head: [capacity, heads, 1] of "float32"."""

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
        """The inverse of `to_json`.

        Raises:
            ValueError, TypeError, LookupError, AttributeError: it is not what that writes.
        """
        facts: dict[str, Any] = parse_json(data)
        program = cls(
            dims=tuple(
                Dimension(tuple((str(n), int(f)) for n, f in d["terms"]), int(d["constant"]))
                for d in facts["dims"]
            ),
            operands=tuple(Operand(kind, key) for kind, key in facts["operands"]),
            calls=tuple((str(name), tuple(arguments)) for name, arguments in facts["calls"]),
            caches=tuple(
                Cache(count(c["heads"]), count(c["size"]), c["dtype"]) for c in facts["caches"]
            ),
            scratch=facts["scratch"],
        )
        program.check()
        return program

    def check(self) -> None:
        """Raises ValueError where one part refers to another that is not there."""
        ends = {"dim": len(self.dims), "scratch": self.scratch + 1, "cache": len(self.caches)}
        if type(self.scratch) is not int or not 0 <= self.scratch < LARGEST_DIM:
            raise ValueError("its scratch memory has no size")
        for kind, key in ((operand.kind, operand.key) for operand in self.operands):
            known = isinstance(key, str) if kind in ("weight", "port") else kind in ends
            if not known or (isinstance(key, int) and not 0 <= key < ends.get(kind, 0)):
                raise ValueError(f"it has no {kind} {key}")
            if kind in ends and type(key) is not int:
                raise ValueError(f"its {kind} {key} is no number")
        for name, arguments in self.calls:
            if any(type(i) is not int or not 0 <= i < len(self.operands) for i in arguments):
                raise ValueError(f"the call of {name} has an operand that is not there")
        if any(cache.dtype not in ("float32", "int8") for cache in self.caches):
            raise ValueError("a cache is of an unknown type")


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
    facts: list[dict[str, Any]] = parse_json(data)
    for f in facts:
        f["place"], f["count"] = Operand(**f["place"]), Operand(**f["count"])
        f["row"] = tuple(f["row"])
    return [Seen(**f) for f in facts]
