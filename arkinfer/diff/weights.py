"""Which weights of two artifacts differ, and by how much. Knows no graph and runs no model.

Equal SHA-256 in the manifests means equal bytes, so that only what changed is read, by rows. The
parts of a quantized matrix are one weight here; schemes and dtypes may differ.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from arkinfer.artifact.groups import GROUPS, group_of
from arkinfer.errors import ArkError
from arkinfer.packing import QuantizedTensor, parse_scheme

if TYPE_CHECKING:
    from arkinfer.artifact import Artifact

BLOCK = 1 << 21
"""Elements that are compared at a time."""

_PART = re.compile(r"(.+)\.(int[2-8]-[a-z0-9-]+)\.(codes|scale|zero|min|order)")


@dataclass(frozen=True)
class Stored:
    """A weight as an artifact has it.

    Attributes:
        name: as the model calls it, without its scheme.
        kind: its scheme, or dtype.
        shape: of the matrix, quantized or not.
        parts: part ("" for a dense one) -> tensor of the artifact.
        size: bytes of all parts.
        digests: their SHA-256.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parts: dict[str, str]
    size: int
    digests: tuple[str, ...]


@dataclass(frozen=True)
class WeightChange:
    """A weight that differs.

    Attributes:
        name: as the model calls it.
        a: as the first artifact has it; None: not at all.
        b: as the second one does.
        relative: |a - b| / |a| over all elements, Euclidean; None: not comparable, see `why`.
        why: why it could not be compared.
    """

    name: str
    a: Stored | None
    b: Stored | None
    relative: float | None = None
    why: str = ""

    @property
    def how(self) -> str:
        """ "added", "removed" or "changed"."""
        return "added" if self.a is None else "removed" if self.b is None else "changed"


def stored_weights(artifact: Artifact) -> dict[tuple[str, str], Stored]:
    """The weights of an artifact by (name, kind)."""
    parts: dict[tuple[str, str], dict[str, str]] = {}
    for tensor in artifact.manifest["tensors"]:
        match = _PART.fullmatch(tensor)
        key = (match[1], match[2]) if match and _is_scheme(match[2]) else (tensor, "")
        parts.setdefault(key, {})[match[3] if match and key[1] else ""] = tensor
    found = (_stored(artifact, *key, tensors) for key, tensors in parts.items())
    return {(weight.name, weight.kind): weight for weight in found}


def _is_scheme(name: str) -> bool:
    try:
        parse_scheme(name)
    except ArkError:
        return False
    return True


def _stored(artifact: Artifact, name: str, kind: str, parts: dict[str, str]) -> Stored:
    entries = {part: artifact.tensor_entry(tensor) for part, tensor in parts.items()}
    listed = artifact.manifest["entries"]
    digests = tuple(listed[f"weights/{tensor}"]["sha256"] for _, tensor in sorted(parts.items()))
    size = sum(entry.size for entry in entries.values())
    if kind and "codes" in entries and len(entries["codes"].shape) == 3:
        rows, groups, width = entries["codes"].shape
        shape = (rows, groups * (width * 8 // parse_scheme(kind).bits))
    else:
        first = next(iter(entries.values()))
        kind, shape = kind or first.dtype, first.shape
    return Stored(name, kind, tuple(shape), parts, size, digests)


def differing_weights(
    a: Artifact, b: Artifact, progress: Callable[[int, int], object] | None = None
) -> list[WeightChange]:
    """The weights that differ, in the order of the artifacts.

    Args:
        a: an open artifact.
        b: another one.
        progress: called with (done, all) bytes of what has to be read.
    """
    pairs = _pairs(_by_name(stored_weights(a)), _by_name(stored_weights(b)))
    total = sum(x.size + y.size for x, y in pairs if x and y)
    done = 0
    changes: list[WeightChange] = []
    for x, y in pairs:
        if x is not None and y is not None:
            changes.append(_compared(a, b, x, y))
            done += x.size + y.size
            if progress is not None:
                progress(done, total)
        elif one := x or y:
            changes.append(WeightChange(one.name, x, y))
    return changes


def _by_name(weights: dict[tuple[str, str], Stored]) -> dict[str, list[Stored]]:
    """A tied embedding may be stored twice, in two schemes."""
    result: dict[str, list[Stored]] = {}
    for weight in weights.values():
        result.setdefault(weight.name, []).append(weight)
    return result


def _pairs(
    a: dict[str, list[Stored]], b: dict[str, list[Stored]]
) -> list[tuple[Stored | None, Stored | None]]:
    """Weights of one name that differ; those of the same kind go together first."""
    result: list[tuple[Stored | None, Stored | None]] = []
    for name in dict.fromkeys([*a, *b]):
        ours = {weight.kind: weight for weight in a.get(name, [])}
        theirs = {weight.kind: weight for weight in b.get(name, [])}
        for kind in [kind for kind in ours if kind in theirs]:
            x, y = ours.pop(kind), theirs.pop(kind)
            if (x.digests, x.shape) != (y.digests, y.shape):
                result.append((x, y))
        result += zip_longest(ours.values(), theirs.values())
    return result


def _compared(a: Artifact, b: Artifact, x: Stored, y: Stored) -> WeightChange:
    if x.shape != y.shape:
        why = f"shapes {list(x.shape)} and {list(y.shape)}"
        return WeightChange(x.name, x, y, why=why)
    try:
        relative = relative_difference(_blocks(a, x), _blocks(b, y))
    except (ArkError, TypeError, ValueError) as error:  # parts of a foreign file may not fit
        return WeightChange(x.name, x, y, why=str(error))
    if math.isnan(relative):
        return WeightChange(x.name, x, y, why="a value is not a number")
    return WeightChange(x.name, x, y, relative)


def relative_difference(
    a: Iterator[npt.NDArray[np.float32]], b: Iterator[npt.NDArray[np.float32]]
) -> float:
    """|a - b| / |a|, Euclidean, of blocks that agree in shape; infinite where a is 0."""
    apart, length = 0.0, 0.0
    for x, y in zip(a, b, strict=True):
        wide = x.astype(np.float64)
        apart += float(np.square(wide - y).sum())
        length += float(np.square(wide).sum())
    if length == 0.0:
        return 0.0 if apart == 0.0 else math.inf
    return math.sqrt(apart / length)


def _blocks(artifact: Artifact, weight: Stored) -> Iterator[npt.NDArray[np.float32]]:
    """The numbers of a weight in float32, some rows at a time."""
    rows = weight.shape[0] if weight.shape else 1
    step = max(1, BLOCK // max(1, math.prod(weight.shape[1:])))
    parts = {part: artifact.tensor(tensor) for part, tensor in weight.parts.items()}
    if "" in parts:
        flat: npt.NDArray[Any] = parts[""].reshape(rows, -1)
        for start in range(0, rows, step):
            yield flat[start : start + step].astype(np.float32)
        return
    scheme = parse_scheme(weight.kind)
    matrix = QuantizedTensor.from_parts(scheme, (rows, weight.shape[1]), parts)
    for start in range(0, rows, step):
        yield matrix.dequantize(slice(start, start + step))


def sizes(a: Artifact, b: Artifact) -> list[tuple[str, int, int]]:
    """(group, bytes in the first, bytes in the second) of the model's parts that exist."""
    totals = {group: [0, 0] for group in GROUPS}
    for index, artifact in enumerate((a, b)):
        for name in artifact.manifest["tensors"]:
            totals[group_of(name)][index] += artifact.tensor_entry(name).size
    return [(group, first, second) for group, (first, second) in totals.items() if first or second]
