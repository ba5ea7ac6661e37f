"""Reads the listing of a section, `module.ir`: which ops there are, on what, and from where.

Reads only what the device half tells about a step (names, types, torch paths); it knows no op's
meaning and checks no rule. The IR itself, and the form of its text, are `arkinfer.ir`'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from arkinfer.errors import ArtifactError

BYTES = {"f64": 8, "i64": 8, "f32": 4, "i32": 4, "f16": 2, "bf16": 2, "i8": 1, "u8": 1, "bool": 1}
"""dtype of the IR -> bytes of an element."""

_ATTRIBUTES = r'(?: \{(?:[^"{}]|"(?:[^"\\]|\\.)*")*\})?'
_TYPE = re.compile(r"(?:(cache|quant)<([\w.-]+)>|(\w+))\[([^\[\]]*)\]")
_WEIGHT = re.compile(r"weight @(\S+) : ([^=]+?)(?: = .*)?")
_FUNCTION = re.compile(r"func @(\w+)\((.*)\) \{")
_NODE = re.compile(
    rf"  (%[^=]+) = ([\w.]+)\(([^()]*)\){_ATTRIBUTES} : ((?:(?!  // ).)+)(?:  // (.*))?"
)
_TERM = re.compile(r"(?:(-?\d+)\*)?([A-Za-z_]\w*)|(-?\d+)")


@dataclass(frozen=True)
class Type:
    """The type of a value or a weight.

    Attributes:
        kind: "tensor", "cache" or "quant".
        dtype: of the IR; of a quantized matrix its scheme.
        shape: dimensions as they are written: numbers, or sums of symbols.
    """

    kind: str
    dtype: str
    shape: tuple[str, ...]

    def sizes(self, symbols: Mapping[str, int]) -> tuple[int, ...]:
        """The dimensions, where every symbol has a value."""
        return tuple(_size(text, symbols) for text in self.shape)

    def nbytes(self, symbols: Mapping[str, int]) -> int:
        """Bytes of a tensor or a cache; how many a quantized matrix has, the file says."""
        return prod(self.sizes(symbols)) * self.item_bytes

    @property
    def item_bytes(self) -> int:
        """Bytes of an element of a tensor or a cache."""
        return BYTES[self.dtype]


@dataclass(frozen=True)
class Op:
    """One line: what it computes, from which values and weights, for which torch module."""

    results: tuple[str, ...]
    name: str
    values: tuple[str, ...]
    weights: tuple[str, ...]
    path: str


@dataclass(frozen=True)
class Listing:
    """The function `step` of a module.

    Attributes:
        inputs: names of its inputs, in order.
        ops: in order of execution.
        types: of all values by name, inputs included.
        weights: types of the weights by name.
    """

    inputs: tuple[str, ...]
    ops: tuple[Op, ...]
    types: dict[str, Type]
    weights: dict[str, Type]

    def symbols(self, **lengths: int) -> dict[str, int]:
        """The values of the symbols that the first dimensions of some inputs are.

        >>> read_listing("func @step(%tokens: i64[T]) {\\n}\\n").symbols(tokens=3)
        {'T': 3}
        """
        return {self.types[name].shape[0]: length for name, length in lengths.items()}


def read_listing(text: str, function: str = "step") -> Listing:
    """Reads one function of a module.

    Raises:
        ArtifactError: the text is not a listing; names the line.
    """
    inputs: list[str] = []
    ops: list[Op] = []
    types: dict[str, Type] = {}
    weights: dict[str, Type] = {}
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        try:
            if match := _FUNCTION.fullmatch(line):
                if inside := match[1] == function:
                    for name, kind in re.findall(r"%([^:\s]+): ([^\]]+\])", match[2]):
                        inputs.append(name)
                        types[name] = _type(kind)
            elif match := _WEIGHT.fullmatch(line):
                weights[match[1]] = _type(match[2])
            elif inside and line.startswith("  %"):
                op, kinds = _op(line)
                ops.append(op)
                types.update(zip(op.results, kinds, strict=True))
            elif line and not line.startswith(("module", "  %", "  return ", "}")):
                raise ValueError("it is not of a module")
        except (ValueError, LookupError) as error:
            raise ArtifactError(
                "The listing of the section cannot be read",
                f"Line {number}: {error}",
                "Build the artifact again",
            ) from error
    if not inputs:
        raise ArtifactError(
            "The listing of the section cannot be read",
            f'It has no function "{function}"',
            "Build the artifact again",
        )
    return Listing(tuple(inputs), tuple(ops), types, weights)


def _op(line: str) -> tuple[Op, list[Type]]:
    match = _NODE.fullmatch(line)
    if match is None:
        raise ValueError("it is not an op")
    results, name, operands, kinds, path = match.groups()
    given = [operand for operand in operands.split(", ") if operand]
    values = tuple(operand[1:] for operand in given if operand.startswith("%"))
    weights = tuple(operand[1:] for operand in given if operand.startswith("@"))
    named = tuple(result.lstrip("%") for result in results.split(", "))
    types = [_type(found[0]) for found in re.finditer(_TYPE, kinds)]
    return Op(named, name, values, weights, path or ""), types


def _type(text: str) -> Type:
    match = _TYPE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f'"{text}" is not a type')
    shape = tuple(size.strip() for size in match[4].split(",") if size.strip())
    if match[1] != "quant" and (match[2] or match[3]) not in BYTES:
        raise ValueError(f'"{match[2] or match[3]}" is not a dtype')
    return Type(match[1] or "tensor", match[2] or match[3], shape)


def _size(text: str, symbols: Mapping[str, int]) -> int:
    total = 0
    for part in text.split(" + "):
        match = _TERM.fullmatch(part)
        if match is None:
            raise ValueError(f'"{text}" is not a dimension')
        total += int(match[1] or 1) * symbols[match[2]] if match[2] else int(match[3])
    return total
