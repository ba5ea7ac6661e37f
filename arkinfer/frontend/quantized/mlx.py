"""Reads MLX checkpoints: `weight`, `scales` and `biases`, of linears, embedding and head.

Of a matrix [N, K] of b bits: `weight` uint32 [N, K b / 32], the codes of a row one after the
other, low bits first; `scales` and `biases` [N, K / g]: W = scale q + bias, q from 0 on. Source:
`mlx.core.quantize`, mode "affine", of MLX 0.32. Knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from arkinfer.errors import UnsupportedError
from arkinfer.frontend.quantized.matrix import (
    Facts,
    Read,
    Shapes,
    as_bytes,
    bits_by_shape,
    finite,
    make_scheme,
    module_of,
    need_scales,
    need_tensor,
    section,
)
from arkinfer.packing import QuantizedTensor, Scheme
from arkinfer.packing.tensor import SCALE_DTYPES

BITS = (2, 3, 4, 5, 6, 8)


@dataclass(frozen=True, eq=False)
class MlxMatrix:
    """One matrix; `module` is its name without `.weight`."""

    scheme: Scheme
    shape: tuple[int, int]
    tensors: tuple[str, ...]
    module: str

    def rows(self, read: Read, start: int, stop: int) -> QuantizedTensor:
        columns = self.shape[1]
        size = self.scheme.group_size(columns)
        codes = as_bytes(read(f"{self.module}.weight", start, stop))
        codes = codes.reshape(stop - start, columns // size, size * self.scheme.bits // 8)
        scale, least = (
            finite(name, read(name, start, stop))
            for name in (f"{self.module}.scales", f"{self.module}.biases")
        )
        if scale.dtype != least.dtype:
            scale, least = scale.astype(np.float32), least.astype(np.float32)
        shape = (stop - start, columns)
        return QuantizedTensor(self.scheme, shape, codes, scale, None, least)


def find(
    shapes: Shapes, expected: Mapping[str, tuple[int, int]], facts: Facts, read: Read
) -> dict[str, MlxMatrix]:
    """The matrices that are there in this form, by their `….weight` name.

    Raises:
        CheckpointError: tensors that contradict each other or the config.
        UnsupportedError: a mode other than affine.
    """
    found: dict[str, MlxMatrix] = {}
    for name, (rows, columns) in expected.items():
        module = module_of(name)
        if name not in shapes or shapes[name][0] != np.uint32 or f"{module}.scales" not in shapes:
            continue
        said = section(facts, module) or facts  # MLX names matrices that differ from the others
        mode = said.get("mode", facts.get("mode", "affine"))
        if mode != "affine":
            raise UnsupportedError(
                f"{name} is quantized in MLX's mode {mode}",
                "Of MLX's modes affine is read",
                "Convert the model with mlx_lm.convert and without --q-mode.",
            )
        widths = {bits: (rows, columns * bits // 32) for bits in BITS}
        bits = bits_by_shape(shapes[name][1], widths, said.get("bits")) or 4
        need_tensor(shapes, name, (np.uint32,), (rows, columns * bits // 32))
        groups = need_scales(shapes, f"{module}.scales", rows, None)
        need_tensor(shapes, f"{module}.biases", SCALE_DTYPES, (rows, groups))
        scheme = make_scheme(
            f"{module}.scales", bits, (rows, columns), groups, said=said, offset="min"
        )  # fmt: skip
        used = (name, f"{module}.scales", f"{module}.biases")
        found[name] = MlxMatrix(scheme, (rows, columns), used, module)
    return found
