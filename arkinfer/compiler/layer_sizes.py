"""How much of an artifact each layer of the model takes. Knows no backend and no file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from arkinfer.compiler.effective import places
from arkinfer.compiler.weights import elements_per_row, nbytes, rows_of
from arkinfer.ir import QuantizedType, Weight

_LAYER = re.compile(r"(.*\blayers\.\d+)\..*")


@dataclass(frozen=True)
class LayerSize:
    """The matrices of a layer, or of all that is outside of layers.

    Attributes:
        path: its torch module; "" for embedding and head.
        nbytes: that they take, scales included.
        bits: per weight, scales included.
        schemes: the different ones, sorted; the dtype of what is not quantized.
    """

    path: str
    nbytes: int
    bits: float
    schemes: tuple[str, ...]


def layer_sizes(finals: Iterable[Weight], weights: Mapping[str, Weight]) -> tuple[LayerSize, ...]:
    """By layer, in the order of their first use.

    Args:
        finals: what nodes read.
        weights: of the module, by name.
    """
    groups: dict[str, list[Weight]] = {}
    for final in finals:
        if len(final.type.shape) == 2:
            leaf = next(iter(places([final], weights)))
            match = _LAYER.fullmatch(leaf)
            groups.setdefault(match[1] if match else "", []).append(final)
    return tuple(_size(path, group) for path, group in groups.items())


def _size(path: str, group: list[Weight]) -> LayerSize:
    size = sum(map(nbytes, group))
    count = sum(rows_of(weight) * elements_per_row(weight) for weight in group)
    return LayerSize(path, size, round(8 * size / count, 4), tuple(sorted({*map(_scheme, group)})))


def _scheme(weight: Weight) -> str:
    kind = weight.type
    return kind.scheme.name if isinstance(kind, QuantizedType) else kind.dtype
