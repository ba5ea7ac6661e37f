"""The types of values and weights: tensors, caches and quantized matrices.

A dimension is an integer or a linear expression in symbols (`T`, `S + T`). Knows no ops.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from arkinfer.errors import InternalError
from arkinfer.packing import Scheme, parse_scheme

DTYPES: dict[str, np.dtype[Any]] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f64": np.dtype(np.float64),
    "i64": np.dtype(np.int64),
    "i32": np.dtype(np.int32),
    "i8": np.dtype(np.int8),
    "u8": np.dtype(np.uint8),
    "bool": np.dtype(np.bool_),
}
"""IR name -> numpy dtype."""

FLOATS = ("f32", "f16", "bf16", "f64")

CACHES = ("f32", "bf16", "f16", "i8")
"""What keys and values can be kept in."""


def dtype_name(dtype: np.dtype[Any]) -> str:
    """The IR name of a numpy dtype."""
    for name, known in DTYPES.items():
        if known == dtype:
            return name
    raise InternalError(f"the IR has no dtype {dtype}")


@dataclass(frozen=True)
class Sym:
    """A linear expression in symbols: sum of factor * symbol, plus a constant.

    Always normalized (terms sorted, no zero factor, at least one term); make one with `dim`.
    """

    terms: tuple[tuple[str, int], ...]
    constant: int = 0

    def __str__(self) -> str:
        parts = [name if factor == 1 else f"{factor}*{name}" for name, factor in self.terms]
        if self.constant:
            parts.append(str(self.constant))
        return " + ".join(parts)


Dim: TypeAlias = "int | Sym"
Shape: TypeAlias = "tuple[Dim, ...]"

_TERM = re.compile(r"(?:(-?\d+)\s*\*\s*)?([A-Za-z_]\w*)|(-?\d+)")


def dim(text: str | int) -> Dim:
    """Parses `8`, `T`, `S + T`, `2*T + 1`.

    >>> str(dim("T + S"))
    'S + T'
    """
    if isinstance(text, int):
        return text
    terms: dict[str, int] = {}
    constant = 0
    for part in text.split("+"):
        match = _TERM.fullmatch(part.strip())
        if match is None:
            raise InternalError(f'"{text}" is not a dimension', "expected terms like T, 2*T or 8")
        if match[2]:
            terms[match[2]] = terms.get(match[2], 0) + int(match[1] or 1)
        else:
            constant += int(match[3])
    return _normal(terms, constant)


def add_dims(a: Dim, b: Dim) -> Dim:
    """a + b, normalized."""
    terms: dict[str, int] = {}
    constant = 0
    for d in (a, b):
        if isinstance(d, int):
            constant += d
            continue
        constant += d.constant
        for name, factor in d.terms:
            terms[name] = terms.get(name, 0) + factor
    return _normal(terms, constant)


def scale_dim(a: Dim, factor: int) -> Dim:
    """a * factor, normalized."""
    if isinstance(a, int):
        return a * factor
    return _normal({n: f * factor for n, f in a.terms}, a.constant * factor)


def _normal(terms: Mapping[str, int], constant: int) -> Dim:
    kept = tuple(sorted((n, f) for n, f in terms.items() if f))
    return Sym(kept, constant) if kept else constant


def evaluate(d: Dim, symbols: Mapping[str, int]) -> int:
    """The value of a dimension where every symbol is bound."""
    if isinstance(d, int):
        return d
    unbound = [name for name, _ in d.terms if name not in symbols]
    if unbound:
        raise InternalError(f"the symbol {unbound[0]} of {d} has no value")
    return sum(factor * symbols[name] for name, factor in d.terms) + d.constant


def symbols_of(shape: Shape) -> set[str]:
    """The symbols that a shape mentions."""
    return {name for d in shape if isinstance(d, Sym) for name, _ in d.terms}


def shape_text(shape: Shape) -> str:
    return f"[{', '.join(str(d) for d in shape)}]"


@dataclass(frozen=True)
class TensorType:
    """`f32[T, 256]`: a dense tensor, row-major."""

    dtype: str
    shape: Shape

    def __str__(self) -> str:
        return self.dtype + shape_text(self.shape)


@dataclass(frozen=True)
class CacheType:
    """`cache<f32>[S, 2, 64]`: the keys or values of one layer, [tokens, kv heads, head_dim].

    `cache<bf16>` and `cache<f16>` hold them rounded. `cache<i8>[S, 2, 64]`: their codes;
    `cache<f32>[S, 2, 1]`: the scales of these, per token. A value like any other in the IR; a
    backend may update it in place.
    """

    dtype: str
    shape: Shape

    def __str__(self) -> str:
        return f"cache<{self.dtype}>{shape_text(self.shape)}"


@dataclass(frozen=True)
class QuantizedType:
    """`quant<int4-g128>[4096, 1024]`: a matrix [N, K] in packing's canonical form."""

    scheme: Scheme
    shape: tuple[int, int]

    def __str__(self) -> str:
        return f"quant<{self.scheme.name}>{shape_text(self.shape)}"


Type: TypeAlias = "TensorType | CacheType | QuantizedType"

_TYPE = re.compile(r"(?:(cache|quant)<([\w.-]+)>|(\w+))\[([^\]]*)\]")


def parse_type(text: str) -> Type:
    """The inverse of `str(type)`."""
    match = _TYPE.fullmatch(text.strip())
    if match is None:
        raise InternalError(f'"{text}" is not a type', "expected one like f32[T, 256]")
    shape = tuple(dim(d.strip()) for d in match[4].split(",") if d.strip())
    if match[1] == "quant":
        rows, columns = shape if len(shape) == 2 else (None, None)
        if not (isinstance(rows, int) and isinstance(columns, int)):
            raise InternalError(f'"{text}" is not a type', "quantized matrices have two sizes")
        return QuantizedType(parse_scheme(match[2]), (rows, columns))
    dtype = match[2] or match[3]
    if dtype not in DTYPES:
        raise InternalError(f'"{dtype}" is not a dtype of the IR', f"known: {', '.join(DTYPES)}")
    return CacheType(dtype, shape) if match[1] else TensorType(dtype, shape)
