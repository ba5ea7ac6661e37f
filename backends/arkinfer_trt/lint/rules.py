"""What TensorRT's parser of ONNX takes, op by op, as data: `rules.csv`. Knows no network.

Columns of the table, empty where nothing is asked:

    since       the first TensorRT that parses it; "never"; "avoid": it would, and we do not
    opset       of ONNX, the first whose form of the op is parsed
    types       of inputs: "0 1: floats; 2: i64"; those of a group have one type, * is all
    ranks       of inputs: "0: 4 5"
    constant    inputs that are known when the engine is built
    absent      optional inputs that may not be there
    outputs     how many there may be
    attributes  values that they must have where they are there; "-": may not be there
    hint        what to do instead

Sources: the operator table of onnx-tensorrt 10.15 and its importers, TensorRT's release notes (what
is new in which version), `IDequantizeLayer` in its headers, and its issues 4738 and 4832.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.resources import files

from onnx import TensorProto

DTYPES: dict[int, str] = {
    TensorProto.FLOAT: "f32",
    TensorProto.FLOAT16: "f16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.INT8: "i8",
    TensorProto.UINT8: "u8",
    TensorProto.INT32: "i32",
    TensorProto.INT64: "i64",
    TensorProto.INT4: "i4",
    TensorProto.BOOL: "bool",
}
"""What tensors of a network for Orin may be, which has neither fp8 nor fp4."""

FIRST_OPSET, LAST_OPSET = 9, 24
"""Of ONNX, that TensorRT 10.15 and 10.16 parse."""

ABSENT = "-"
"""Of an attribute that may not be there."""

_FLOATS = ("f32", "f16", "bf16")
_NUMBERS = (*_FLOATS, "i32", "i64")
_SETS = {"floats": _FLOATS, "numbers": _NUMBERS, "all": (*_NUMBERS, "bool")}


@dataclass(frozen=True)
class Group:
    """Inputs, by number (none: all of them), and what they may be."""

    inputs: tuple[int, ...]
    allowed: tuple[str, ...]

    def of(self, count: int) -> list[int]:
        """Which of `count` inputs it has."""
        return [i for i in range(count) if not self.inputs or i in self.inputs]


@dataclass(frozen=True)
class Rule:
    """A row of the table; see above."""

    op: str
    since: str
    opset: int
    types: tuple[Group, ...]
    ranks: tuple[Group, ...]
    constant: tuple[int, ...]
    absent: tuple[int, ...]
    outputs: int | None
    attributes: dict[str, str]
    hint: str


def _groups(cell: str) -> tuple[Group, ...]:
    found: list[Group] = []
    for group in filter(None, cell.split(";")):
        inputs, _, allowed = group.partition(":")
        names = [name for word in allowed.split() for name in _SETS.get(word, (word,))]
        found.append(Group(() if inputs.strip() == "*" else _numbers(inputs), tuple(names)))
    return tuple(found)


def _numbers(cell: str) -> tuple[int, ...]:
    return tuple(int(word) for word in cell.split())


def _rule(row: dict[str, str]) -> Rule:
    pairs = (word.split("=") for word in row["attributes"].split())
    return Rule(
        op=row["op"],
        since=row["since"],
        opset=int(row["opset"] or 0),
        types=_groups(row["types"]),
        ranks=_groups(row["ranks"]),
        constant=_numbers(row["constant"]),
        absent=_numbers(row["absent"]),
        outputs=int(row["outputs"]) if row["outputs"] else None,
        attributes={name: value for name, value in pairs},
        hint=row["hint"],
    )


def _table() -> dict[str, Rule]:
    text = files("arkinfer_trt.lint").joinpath("rules.csv").read_text("utf-8")
    return {row["op"]: _rule(row) for row in csv.DictReader(text.splitlines())}


RULES = _table()
