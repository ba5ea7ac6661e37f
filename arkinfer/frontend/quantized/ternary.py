"""Ternary linears in a checkpoint of ordinary numbers, as BitCPM publishes them.

No tensor's name and no config says that they are ternary: only their numbers do, so that this
reads weights where the other formats need headers. Knows no file.
Source: BitCPM-CANN (OpenBMB 2025), section 3.2; the rule is that of `arkinfer.packing.ternary`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from arkinfer.errors import ArkError
from arkinfer.frontend.quantized.matrix import BLOCK, Array, Read
from arkinfer.packing import NotTernary, QuantizedTensor, Scheme, find_ternary, ternary_rows

_LINEAR = re.compile(r"model\.layers\.\d+\.\w+\.(?:q|k|v|o|gate|up|down)_proj\.weight")


@dataclass(frozen=True)
class TernaryMatrix:
    """A matrix [N, K] that lies there as ordinary numbers; see `matrix.Matrix`."""

    name: str
    scheme: Scheme
    shape: tuple[int, int]

    @property
    def tensors(self) -> tuple[str, ...]:
        """The tensor of its own name."""
        return (self.name,)

    def rows(self, read: Read, start: int, stop: int) -> QuantizedTensor:
        """Rows [start:stop) of it, bit-exact but for the sign of zeros; scales in float32.

        Raises:
            CheckpointError: numbers that are not finite, or a file that is cut off.
        """
        return ternary_rows(read(self.name, start, stop), self.scheme)


@dataclass(frozen=True)
class Dense:
    """The first linear that is not ternary, and why."""

    name: str
    reason: str


def is_linear(name: str) -> bool:
    """Whether a tensor is the matrix of one of the layers' linears: what BitCPM quantizes."""
    return _LINEAR.fullmatch(name) is not None


def find(
    shapes: Mapping[str, tuple[int, ...]],
    read: Read,
    on_part: Callable[[int, int], None] = lambda done, total: None,
    *,
    glance: bool = False,
) -> dict[str, TernaryMatrix] | Dense:
    """The linears of a model, if all of them are ternary.

    One that is not is told by a row or two. Else everything is read, a bounded number of rows at
    a time.

    Args:
        shapes: of the model's tensors by their Hugging Face names.
        read: gives rows of them.
        on_part: told how many of how many linears are done.
        glance: believe the first row of each linear.

    Raises:
        CheckpointError: a linear holds numbers that are not finite; names it. A file is cut off.
    """
    linears = {name: (s[0], s[1]) for name, s in shapes.items() if is_linear(name)}
    found: dict[str, TernaryMatrix] = {}
    for most in (1,) if glance else (1, None):
        for done, (name, shape) in enumerate(linears.items()):
            on_part(done if most is None else 0, len(linears))
            scheme = _scheme(name, _blocks(name, (most or shape[0], shape[1]), read))
            if isinstance(scheme, NotTernary):
                return Dense(name, scheme.reason)
            found[name] = TernaryMatrix(name, scheme, shape)
    return found


def _scheme(name: str, blocks: Iterator[Array]) -> Scheme | NotTernary:
    try:
        return find_ternary(blocks)
    except ArkError as error:
        raise type(error)(f"@{name}: {error.what}", error.why, error.fix) from None


def _blocks(name: str, shape: tuple[int, int], read: Read) -> Iterator[Array]:
    rows, columns = shape
    step = max(1, BLOCK // columns)
    for start in range(0, rows, step):
        yield read(name, start, min(start + step, rows))
