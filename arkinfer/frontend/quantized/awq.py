"""Reads AutoAWQ checkpoints of the version GEMM: `qweight`, `qzeros`, `scales`; 4 bits.

Of a matrix [N, K]: `qweight` int32 [K, N / 8] and `qzeros` int32 [K / g, N / 8], whose 4-bit field
i of word c belongs to column 8 c + (0 2 4 6 1 3 5 7)[i]; `scales` [K / g, N]. The zero points are
stored as they are: W[n, k] = scales[g, n] (q[k, n] - zero[g, n]). What the method scales the
activations by is in the weights and norms already. Source: `awq/utils/packing_utils.py` of
AutoAWQ 0.2.9. Knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from arkinfer.errors import UnsupportedError
from arkinfer.frontend.quantized.matrix import (
    BLOCK,
    Array,
    Bytes,
    Facts,
    LastConverted,
    Read,
    Shapes,
    as_bytes,
    bias_of,
    check_bias,
    make_scheme,
    module_of,
    need_scales,
    need_tensor,
    turned_scales,
)
from arkinfer.packing import QuantizedTensor, Scheme, pack_bits, unpack_bits

BITS = 4
PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Column -> the field of its word that holds it."""


@dataclass(frozen=True, eq=False)
class AwqMatrix:
    """One matrix; `module` is its name without `.weight`."""

    scheme: Scheme
    shape: tuple[int, int]
    tensors: tuple[str, ...]
    module: str
    last: LastConverted = field(repr=False)

    def rows(self, read: Read, start: int, stop: int) -> QuantizedTensor:
        return self.last.rows(self.module, lambda: self._convert(read), start, stop)

    def _convert(self, read: Read) -> QuantizedTensor:
        count, columns = self.shape
        size = self.scheme.group_size(columns)
        groups = columns // size
        check_bias(read, self.module, self.tensors, count)
        words = read(f"{self.module}.qweight", 0, columns)
        codes = np.empty((count, groups, size * BITS // 8), np.uint8)
        step = max(1, BLOCK // columns // 8) * 8
        for start in range(0, count, step):
            fields = _fields(words[:, start // 8 : (start + step) // 8])
            some = codes[start : start + step]
            some[...] = pack_bits(np.ascontiguousarray(fields.T), BITS).reshape(some.shape)
        scale = turned_scales(read, self.module, groups)
        zero = None
        if self.scheme.offset == "zero":
            zeros = _fields(read(f"{self.module}.qzeros", 0, groups))
            zero = pack_bits(np.ascontiguousarray(zeros.T), BITS)
        return QuantizedTensor(self.scheme, self.shape, codes, scale, zero)


def find(
    shapes: Shapes, expected: Mapping[str, tuple[int, int]], facts: Facts, read: Read
) -> dict[str, AwqMatrix]:
    """The matrices that are there in this form, by their `….weight` name.

    Reads all zero points, which tell whether a matrix is symmetric.

    Raises:
        CheckpointError: tensors that contradict each other or the config.
        UnsupportedError: groups of different sizes; AutoAWQ's versions GEMV and Marlin.
    """
    last = LastConverted()
    found: dict[str, AwqMatrix] = {}
    for name, (rows, columns) in expected.items():
        module = module_of(name)
        used = [f"{module}.{part}" for part in ("qweight", "qzeros", "scales")]
        if name in shapes or used[0] not in shapes or used[1] not in shapes or rows % 8:
            continue
        if shapes[used[0]][1] != (columns, rows // 8):
            continue
        version = str(facts.get("version", "gemm"))
        if facts.get("quant_method") == "awq" and version.lower() != "gemm":
            raise UnsupportedError(
                f"The weights are stored in AutoAWQ's version {version}",
                "Of AutoAWQ's versions GEMM is read",
                "Pack the model again with version GEMM, AutoAWQ's default.",
            )
        need_tensor(shapes, used[0], (np.int32,), (columns, rows // 8))
        groups = need_scales(shapes, used[2], None, rows)
        need_tensor(shapes, used[1], (np.int32,), (groups, rows // 8))
        used += bias_of(shapes, module, rows)
        symmetric = (_fields(read(used[1], 0, groups)) == 1 << (BITS - 1)).all()
        said = {
            "bits": facts.get("bits", facts.get("w_bit")),
            "group_size": facts.get("group_size", facts.get("q_group_size")),
        }
        scheme = make_scheme(
            used[2], BITS, (rows, columns), groups, said=said,
            offset="none" if symmetric else "zero",
        )  # fmt: skip
        found[name] = AwqMatrix(scheme, (rows, columns), tuple(used), module, last)
    return found


def _fields(words: Array) -> Bytes:
    """int32 [n, m] -> uint8 [n, 8 m], in the order of the columns."""
    count = words.shape[1] * 8
    fields = unpack_bits(as_bytes(words), BITS, count)
    return fields.reshape(len(words), -1, 8)[:, :, PLACES].reshape(len(words), count)
