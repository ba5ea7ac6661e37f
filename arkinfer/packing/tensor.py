"""A quantized matrix in canonical form: codes, scales, offsets. Knows no method and no backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from arkinfer.errors import InternalError
from arkinfer.packing.bits import pack_bits, packed_size, unpack_bits
from arkinfer.packing.scheme import Scheme

SCALE_DTYPES = tuple(np.dtype(t) for t in (np.float32, np.float16, ml_dtypes.bfloat16))


def part_specs(
    scheme: Scheme, shape: tuple[int, int], scale_dtype: npt.DTypeLike = np.float32
) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """The stored arrays of a matrix [N, K]: part name -> (dtype, shape), in storage order.

    Raises:
        UnsupportedError: the scheme does not fit K.
    """
    rows, columns = shape
    size = scheme.group_size(columns)
    groups = columns // size
    scales = np.dtype(scale_dtype)
    specs: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
        "codes": (np.dtype(np.uint8), (rows, groups, size * scheme.bits // 8)),
        "scale": (scales, (rows, groups)),
    }
    if scheme.offset == "zero":
        specs["zero"] = (np.dtype(np.uint8), (rows, packed_size(groups, scheme.bits)))
    if scheme.offset == "min":
        specs["min"] = (scales, (rows, groups))
    if scheme.act_order:
        specs["order"] = (np.dtype(np.int32), (columns,))
    return specs


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """A matrix [N, K], group size g, in the one form that every method writes.

    With c the unpacked code: W = scale * (c - 2^(bits-1)) without offset, scale * (c - zero)
    with a zero point, scale * c + min with a minimum. With `act_order`, these are the columns
    W[:, order].

    Attributes:
        scheme: bits, group, offset, order.
        shape: (N, K).
        codes: uint8 [N, K/g, g*bits/8], low bits first.
        scale: float32, float16 or bfloat16 [N, K/g].
        zero: uint8 [N, ceil(K/g*bits/8)], packed like the codes; offset "zero" only.
        min: the scale's dtype, [N, K/g]; offset "min" only.
        order: int32 [K]; `act_order` only.
    """

    scheme: Scheme
    shape: tuple[int, int]
    codes: npt.NDArray[np.uint8]
    scale: npt.NDArray[Any]
    zero: npt.NDArray[np.uint8] | None = None
    min: npt.NDArray[Any] | None = None
    order: npt.NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        if self.scale.dtype not in SCALE_DTYPES:
            raise InternalError(f"scales are {self.scale.dtype}")
        specs = part_specs(self.scheme, self.shape, self.scale.dtype)
        found = self.parts()
        if found.keys() != specs.keys():
            raise InternalError(f"{self.scheme.name} needs {list(specs)}, not {list(found)}")
        for name, (dtype, shape) in specs.items():
            part = found[name]
            if part.dtype != dtype or part.shape != shape:
                raise InternalError(
                    f"{name} of {self.scheme.name} {self.shape} is {part.dtype} {part.shape}",
                    f"it must be {dtype} {shape}",
                )

    @classmethod
    def from_parts(
        cls, scheme: Scheme, shape: tuple[int, int], parts: dict[str, npt.NDArray[Any]]
    ) -> QuantizedTensor:
        """The inverse of `parts`."""
        return cls(scheme, shape, **parts)

    @classmethod
    def concatenate(cls, pieces: Sequence[QuantizedTensor]) -> QuantizedTensor:
        """Pieces of one matrix, stacked along N."""
        first = pieces[0]
        if len(pieces) == 1:
            return first
        if any(p.scheme != first.scheme or p.shape[1] != first.shape[1] for p in pieces):
            raise InternalError("only rows of one scheme and width can be stacked")
        parts = {
            name: part if name == "order" else np.concatenate([p.parts()[name] for p in pieces])
            for name, part in first.parts().items()
        }
        rows = sum(p.shape[0] for p in pieces)
        return cls.from_parts(first.scheme, (rows, first.shape[1]), parts)

    def parts(self) -> dict[str, npt.NDArray[Any]]:
        """The stored arrays by name, in storage order."""
        named = {
            "codes": self.codes,
            "scale": self.scale,
            "zero": self.zero,
            "min": self.min,
            "order": self.order,
        }
        return {name: part for name, part in named.items() if part is not None}

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts().values())

    def rows(self, rows: slice) -> QuantizedTensor:
        """Some rows of it, as a view."""
        start, stop, _ = rows.indices(self.shape[0])
        parts = {n: p if n == "order" else p[start:stop] for n, p in self.parts().items()}
        return self.from_parts(self.scheme, (stop - start, self.shape[1]), parts)

    def unpacked(self) -> npt.NDArray[np.uint8]:
        """The codes, uint8 [N, K/g, g]."""
        return unpack_bits(self.codes, self.scheme.bits, self.scheme.group_size(self.shape[1]))

    def zeros(self) -> npt.NDArray[np.uint8]:
        """The integer zero points, uint8 [N, K/g]; the midpoint where there is no offset."""
        if self.zero is None:
            return np.full(self.scale.shape, self.scheme.midpoint, np.uint8)
        return unpack_bits(self.zero, self.scheme.bits, self.scale.shape[1])

    def dequantize(self, rows: slice | None = None) -> npt.NDArray[np.float32]:
        """The matrix, or some rows of it, in float32 [N, K]."""
        part = self if rows is None else self.rows(rows)
        count, width = part.shape
        matrix = np.empty(part.shape, np.float32)
        step = max(1, _BLOCK // width)  # rows whose numbers stay in the processor's cache
        for start in range(0, count, step):
            some = part.rows(slice(start, start + step))
            values = matrix[start : start + step].reshape(-1, width // some.group, some.group)
            some._write_values(values)
        if part.order is None:
            return matrix
        restored = np.empty_like(matrix)
        restored[:, part.order] = matrix
        return restored

    @property
    def group(self) -> int:
        """Columns that share a scale."""
        return self.scheme.group_size(self.shape[1])

    def _write_values(self, out: npt.NDArray[np.float32]) -> None:
        """The numbers in the order of the codes, into float32 [N, K/g, g]."""
        scale = self.scale.astype(np.float32)[:, :, None]
        if self.scheme.bits == 4 and self.group % 2 == 0:
            codes = _PAIRS[self.codes].view(np.float32)
        else:
            codes = self.unpacked().astype(np.float32)
        if self.min is not None:
            np.multiply(codes, scale, out=out)
            out += self.min.astype(np.float32)[:, :, None]
            return
        codes -= np.float32(self.scheme.midpoint) if self.zero is None else self.zeros()[:, :, None]
        np.multiply(codes, scale, out=out)


def _pairs() -> npt.NDArray[np.uint64]:
    """Of each byte its two 4-bit codes as float32, side by side: one look-up instead of six
    passes over the memory. 0.8e9 numbers a second and core instead of 0.3e9."""
    byte = np.arange(256)
    pairs = np.stack((byte & 15, byte >> 4), axis=1).astype(np.float32)
    return pairs.view(np.uint64)[:, 0].copy()


_PAIRS = _pairs()
_BLOCK = 1 << 18
"""Numbers that are made at a time."""


def encode(
    scheme: Scheme,
    codes: npt.NDArray[np.uint8],
    scale: npt.NDArray[Any],
    *,
    zero: npt.NDArray[np.uint8] | None = None,
    min: npt.NDArray[Any] | None = None,
    order: npt.NDArray[np.int32] | None = None,
) -> QuantizedTensor:
    """Packs unpacked codes [N, K/g, g] and zero points [N, K/g]."""
    shape = (codes.shape[0], codes.shape[1] * codes.shape[2])
    packed_zero = None if zero is None else pack_bits(zero, scheme.bits)
    packed = pack_bits(codes, scheme.bits)
    return QuantizedTensor(scheme, shape, packed, scale, packed_zero, min, order)
