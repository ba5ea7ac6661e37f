"""Where the values of the IR are in the ONNX graph, for tools that look at a step from inside.

Shared by both halves, as JSON; knows no IR and no ONNX.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from arkinfer.limits import parse_json


@dataclass(frozen=True)
class Place:
    """A value of the IR that the graph has.

    Attributes:
        value: its name in the section's `module.ir`.
        tensor: the graph's name for it.
        row: the IR type's shape without its first dim; the graph may have it flat.
        cache: whether it is a cache: the graph's is [1, heads, capacity, size].
    """

    value: str
    tensor: str
    row: tuple[int, ...]
    cache: bool


@dataclass(frozen=True)
class Places:
    """What the graph shows of a function.

    Attributes:
        values: in order of execution.
        kernels: name of a graph's node -> names of the values that it computes, those that exist
            inside of it alone among them.
    """

    values: tuple[Place, ...]
    kernels: dict[str, tuple[str, ...]]

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Places:
        """The inverse of `to_json`.

        Raises:
            ValueError, LookupError, TypeError, AttributeError: it is not what `to_json` writes.
        """
        facts: dict[str, Any] = parse_json(data)
        values = tuple(
            Place(str(v["value"]), str(v["tensor"]), tuple(map(int, v["row"])), bool(v["cache"]))
            for v in facts["values"]
        )
        return cls(values, {k: tuple(map(str, v)) for k, v in facts["kernels"].items()})
