"""The form in which the compiler hands a step to the executor: a list of kernel calls, as JSON,
and a list of the places where values of the IR can be seen on the way.

Shared by both halves; knows no IR, no TVM and no file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

from arkinfer.limits import LARGEST_DIM, count, parse_json
from arkinfer_tvm.storage import ORDERS, STORED, Cache

INTERFACE = 3
"""Raised when programs or the launcher change so that an older executor cannot run them."""

MOST_OPERANDS = 32
"""Of a call; the launcher has room for no more."""

POSITIONS, ANCESTORS = "positions", "ancestors"
"""Ports of a program that runs trees: int64 [T], where tokens stand; uint64 [T], which tokens of
the step each of them attends to."""

Kind: TypeAlias = Literal["dim", "scratch", "own", "weight", "cache", "port"]


@dataclass(frozen=True)
class Dimension:
    """A number that is known when a step begins.

    The sum of factor * symbol and a constant; then, rounded up, how many times it holds `per`; that
    many times `factor`.
    """

    terms: tuple[tuple[str, int], ...] = ()
    constant: int = 0
    per: int = 1
    factor: int = 1

    def value(self, symbols: Mapping[str, int]) -> int:
        whole = self.constant
        for name, factor in self.terms:
            whole += factor * symbols[name]
        return -(-whole // self.per) * self.factor

    def times(self, factor: int) -> Dimension:
        """So many times this number."""
        return replace(self, factor=self.factor * factor)

    def tiles(self, size: int) -> Dimension:
        """How many tiles of a size cover this number of rows."""
        assert self.per == self.factor == 1
        return replace(self, per=size)


@dataclass(frozen=True)
class Operand:
    """Where an argument of a kernel points to.

    Attributes:
        kind: "dim" (entry `key` of the program's dims), "scratch" (byte `key` of the scratch
            memory), "own" (byte `key` of the memory that each thread has for itself), "weight"
            (the artifact's tensor of that name), "cache" (that one of the state's caches), "port"
            (an input or output of the step, by name).
        key: see there.
    """

    kind: Kind
    key: int | str


@dataclass(frozen=True)
class Call:
    """One kernel, run by all threads together.

    Attributes:
        kernel: its name in the library.
        operands: indices into the program's operands.
        jobs: which of the program's dims says how many jobs there are to share.
        meet: whether the threads wait for each other before the next call.
        stream: which operand, a weight, its jobs read in order, each as much; None: none.
    """

    kernel: str
    operands: tuple[int, ...]
    jobs: int
    meet: bool = True
    stream: int | None = None


@dataclass(frozen=True)
class Program:
    """One step of at most some number of tokens.

    Attributes:
        dims: numbers that kernels read through pointers.
        operands: what calls refer to by index.
        calls: in order.
        caches: what a state must bring.
        scratch: bytes of memory for what lives between kernels.
        own: bytes of memory that each thread has for itself.
        most: tokens.
    """

    dims: tuple[Dimension, ...]
    operands: tuple[Operand, ...]
    calls: tuple[Call, ...]
    caches: tuple[Cache, ...]
    scratch: int
    own: int = 0
    most: int = 1

    @property
    def ports(self) -> frozenset[str]:
        """Inputs and outputs by name."""
        return frozenset(str(o.key) for o in self.operands if o.kind == "port")

    def to_json(self) -> bytes:
        facts = asdict(self)
        facts["operands"] = [[operand.kind, operand.key] for operand in self.operands]
        facts["calls"] = [
            [c.kernel, list(c.operands), c.jobs, c.meet, c.stream] for c in self.calls
        ]
        return json.dumps(facts, separators=(",", ":")).encode()

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Program:
        """The inverse of `to_json`, parsed.

        Raises:
            ValueError, TypeError, LookupError, AttributeError: it is not what that writes.
        """
        program = cls(
            dims=tuple(
                Dimension(
                    tuple((str(n), int(f)) for n, f in d["terms"]),
                    int(d["constant"]),
                    count(d["per"]),
                    count(d["factor"]),
                )
                for d in facts["dims"]
            ),
            operands=tuple(Operand(kind, key) for kind, key in facts["operands"]),
            calls=tuple(
                Call(str(name), tuple(arguments), jobs, bool(meet), stream)
                for name, arguments, jobs, meet, stream in facts["calls"]
            ),
            caches=tuple(
                Cache(count(c["heads"]), count(c["size"]), c["dtype"], c["order"])
                for c in facts["caches"]
            ),
            scratch=facts["scratch"],
            own=facts["own"],
            most=count(facts["most"]),
        )
        program.check()
        return program

    def check(self) -> None:
        """Raises ValueError where one part refers to another that is not there."""
        for size in (self.scratch, self.own):
            if type(size) is not int or not 0 <= size < LARGEST_DIM:
                raise ValueError("its scratch memory has no size")
        ends = {
            "dim": len(self.dims), "scratch": self.scratch + 1, "own": self.own + 1,
            "cache": len(self.caches),
        }  # fmt: skip
        for kind, key in ((operand.kind, operand.key) for operand in self.operands):
            known = isinstance(key, str) if kind in ("weight", "port") else kind in ends
            if not known or (isinstance(key, int) and not 0 <= key < ends.get(kind, 0)):
                raise ValueError(f"it has no {kind} {key}")
            if kind in ends and type(key) is not int:
                raise ValueError(f"its {kind} {key} is no number")
        for call in self.calls:
            indices = [(i, self.operands) for i in call.operands] + [(call.jobs, self.dims)]
            if any(type(i) is not int or not 0 <= i < len(there) for i, there in indices):
                raise ValueError(f"the call of {call.kernel} has an operand that is not there")
            if call.stream is not None and (
                call.stream not in call.operands or self.operands[call.stream].kind != "weight"
            ):
                raise ValueError(f"the call of {call.kernel} reads a stream that is no weight")
            if len(call.operands) > MOST_OPERANDS:
                raise ValueError(f"the call of {call.kernel} has {len(call.operands)} operands")
        if any(c.dtype not in STORED or c.order not in ORDERS for c in self.caches):
            raise ValueError("a cache is of an unknown type or order")


@dataclass(frozen=True)
class Seen:
    """Where a value of the IR can be seen: rows of an array, from the end of a call on.

    Of a cache all rows are seen, as `storage.Cache.read` gives them: stride, offset and dtype say
    nothing there.

    Attributes:
        value: its name in the section's `module.ir`.
        call: how many calls of the program must have run; a later one may overwrite it.
        place: the operand where the array starts: scratch memory, a port or a cache.
        count: the operand that says how many rows there are.
        row: the IR type's shape without its first dim.
        stride: elements from one row to the next.
        offset: elements before the first row.
        dtype: of the elements, as numpy names it.
        inside: values that were computed on the way to this one and are nowhere in memory.
    """

    value: str
    call: int
    place: Operand
    count: Operand
    row: tuple[int, ...]
    stride: int
    offset: int
    dtype: str
    inside: tuple[str, ...] = ()


def programs_to_json(programs: Sequence[Program]) -> bytes:
    """What `programs_from_json` reads."""
    return b"[" + b",".join(program.to_json() for program in programs) + b"]"


def programs_from_json(data: bytes) -> list[Program]:
    """The inverse of `programs_to_json`: at least one, by how many tokens they take.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: it is not what that writes.
    """
    programs = [Program.from_facts(facts) for facts in parse_json(data)]
    if not programs or any(program.caches != programs[0].caches for program in programs):
        raise ValueError("there are no programs, or their caches differ")
    if sorted(programs, key=lambda program: program.most) != programs:
        raise ValueError("its programs are not in order")
    return programs


def seen_to_json(programs: Sequence[Sequence[Seen]]) -> bytes:
    """What `seen_from_json` reads: a list for each program."""
    facts = [[asdict(value) for value in values] for values in programs]
    return json.dumps(facts, separators=(",", ":")).encode()


def seen_from_json(data: bytes) -> list[list[Seen]]:
    """The inverse of `seen_to_json`."""
    return [[seen_of(facts) for facts in values] for values in parse_json(data)]


def seen_of(facts: dict[str, Any]) -> Seen:
    """One of them, parsed."""
    facts["place"], facts["count"] = Operand(**facts["place"]), Operand(**facts["count"])
    facts["row"], facts["inside"] = tuple(facts["row"]), tuple(facts["inside"])
    return Seen(**facts)
