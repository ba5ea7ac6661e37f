"""Reads compressed-tensors checkpoints, as llm-compressor writes them: integer weights.

`pack-quantized`, of a matrix [N, K] of b bits: `weight_packed` int32 [N, ceil(K b / 32)], codes
of a row one after the other, low bits first, each the signed number + 2^(b-1); `weight_scale`
[N, G], [N, 1] or [1]; `weight_shape` int64 [2]; `weight_zero_point` int32 [ceil(N b / 32), G],
packed along N in the same way; older files have `weight_g_idx` int32 [K], the group of each input.
`int-quantized`: `weight` int8 [N, K] as it is, and `weight_zero_point` int8. In both
W = scale (q - zero). That activations are to be quantized, too, is not followed: `--activations` of
a build says that. Source: `compressors/` of compressed-tensors 0.20. Knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from arkinfer.errors import CheckpointError, UnsupportedError
from arkinfer.frontend.quantized.matrix import (
    Array,
    Bytes,
    Facts,
    Read,
    Shapes,
    as_bytes,
    bits_by_shape,
    finite,
    make_scheme,
    module_of,
    need_tensor,
    order_of,
    section,
)
from arkinfer.packing import QuantizedTensor, Scheme, pack_bits, unpack_bits
from arkinfer.packing.tensor import SCALE_DTYPES

UNUSED = ("input_scale", "input_zero_point", "output_scale", "output_zero_point")
"""What a module may have for the quantization of activations."""


@dataclass(frozen=True, eq=False)
class CompressedMatrix:
    """One matrix; `module` is its name without `.weight`.

    Attributes:
        packed: whether its codes are.
        packed_zeros: whether its zero points are.
        scale_shape: as stored.
    """

    scheme: Scheme
    shape: tuple[int, int]
    tensors: tuple[str, ...]
    module: str
    packed: bool
    packed_zeros: bool
    scale_shape: tuple[int, ...]

    def rows(self, read: Read, start: int, stop: int) -> QuantizedTensor:
        columns, bits = self.shape[1], self.scheme.bits
        size = self.scheme.group_size(columns)
        groups = columns // size
        if self.packed:
            words = read(f"{self.module}.weight_packed", start, stop)
            codes = as_bytes(words)[:, : columns * bits // 8]
        else:
            codes = _unsigned(read(f"{self.module}.weight", start, stop), bits)
        order = None
        if self.scheme.act_order:
            name = f"{self.module}.weight_g_idx"
            order = order_of(name, read(name, 0, columns), groups)
            codes = pack_bits(unpack_bits(codes, bits, columns)[:, order], bits)
        codes = np.ascontiguousarray(codes).reshape(stop - start, groups, size * bits // 8)
        zero = None
        if self.scheme.offset == "zero":
            zeros = _zeros(read, self.module, (self.shape[0], groups), bits, self.packed_zeros)
            zero = pack_bits(zeros[start:stop], bits)
        scale = self._scale(read, start, stop)
        return QuantizedTensor(
            self.scheme, (stop - start, columns), codes, scale, zero, None, order
        )

    def _scale(self, read: Read, start: int, stop: int) -> Array:
        name = f"{self.module}.weight_scale"
        if self.scale_shape[0] == self.shape[0]:
            return finite(name, read(name, start, stop)).reshape(stop - start, -1)
        one = finite(name, read(name, 0, 1)).reshape(1, 1)  # of the whole matrix
        return np.repeat(one, stop - start, axis=0)


def find(
    shapes: Shapes, expected: Mapping[str, tuple[int, int]], facts: Facts, read: Read
) -> dict[str, CompressedMatrix]:
    """The matrices that are there in this form, by their `….weight` name.

    Reads all zero points, which tell whether a matrix is symmetric, and all `weight_g_idx`.

    Raises:
        CheckpointError: tensors that contradict each other or the config.
        UnsupportedError: groups of different sizes, or inputs that are to be rotated.
    """
    told = _said(facts, packed=True).get("bits")
    found: dict[str, CompressedMatrix] = {}
    for name, shape in expected.items():
        module = module_of(name)
        bits = 8 if _is_int8(shapes, name, shape) else _packed_bits(shapes, module, shape, told)
        if bits is None:
            continue
        if section(facts, "transform_config").get("config_groups"):
            raise UnsupportedError(
                "config.json has a transform_config: the weights are rotated",
                "A build would leave out the rotations of the activations that belong to it",
                "Use a checkpoint that was quantized without SpinQuant and QuIP.",
            )
        found[name] = _matrix(shapes, name, shape, bits, facts, read)
    return found


def _matrix(
    shapes: Shapes, name: str, shape: tuple[int, int], bits: int, facts: Facts, read: Read
) -> CompressedMatrix:
    """Checks what is beside the codes."""
    module, packed = module_of(name), name not in shapes
    used = [f"{module}.weight_packed" if packed else name, f"{module}.weight_scale"]
    scale_shape = _scale_shape(shapes, used[1], shape[0])
    groups = scale_shape[1] if scale_shape[0] == shape[0] and len(scale_shape) == 2 else 1
    if packed:
        used.append(f"{module}.weight_shape")
        need_tensor(shapes, used[-1], (np.int64, np.int32), (2,))
        if tuple(read(used[-1], 0, 2).tolist()) != shape:
            raise CheckpointError(
                f"{used[-1]} is {read(used[-1], 0, 2).tolist()}",
                f"config.json needs {list(shape)}",
                "Use the config.json that belongs to these weights.",
            )
    order = None
    if f"{module}.weight_g_idx" in shapes:
        used.append(f"{module}.weight_g_idx")
        need_tensor(shapes, used[-1], (np.int32, np.int64), (shape[1],))
        index = read(used[-1], 0, shape[1])
        if not (index == -1).any():  # -1: it was prepared and not used
            order = order_of(used[-1], index, groups)
    symmetric, packed_zeros = True, False
    if (zero := f"{module}.weight_zero_point") in shapes:
        used.append(zero)
        packed_zeros = packed and shapes[zero][0] == np.int32
        rows = -(-shape[0] * bits // 32) if packed_zeros else scale_shape[0]
        wanted = (rows, groups) if len(scale_shape) == 2 else scale_shape
        need_tensor(shapes, zero, (np.int32 if packed_zeros else np.int8,), wanted)
        zeros = _zeros(read, module, (shape[0], groups), bits, packed_zeros)
        symmetric = bool((zeros == 1 << (bits - 1)).all())
    used += [f"{module}.{part}" for part in UNUSED if f"{module}.{part}" in shapes]
    scheme = make_scheme(
        used[1], bits, shape, groups, said=_said(facts, packed),
        offset="none" if symmetric else "zero", act_order=order is not None,
    )  # fmt: skip
    return CompressedMatrix(scheme, shape, tuple(used), module, packed, packed_zeros, scale_shape)


def _packed_bits(shapes: Shapes, module: str, shape: tuple[int, int], told: object) -> int | None:
    """None: it is not there, or is packed in words that hold whole codes only."""
    if f"{module}.weight_packed" not in shapes or f"{module}.weight" in shapes:
        return None
    dtype, words = shapes[f"{module}.weight_packed"]
    rows, columns = shape
    widths = {bits: (rows, -(-columns * bits // 32)) for bits in range(2, 9)}
    return bits_by_shape(words, widths, told) if dtype == np.int32 else None


def _is_int8(shapes: Shapes, name: str, shape: tuple[int, int]) -> bool:
    return shapes.get(name) == (np.dtype(np.int8), shape) and f"{name}_scale" in shapes


def _scale_shape(shapes: Shapes, name: str, rows: int) -> tuple[int, ...]:
    """[N, G], or [1] or [1, 1]: one scale for the whole matrix."""
    found = shapes[name][1] if name in shapes else ()
    one = found in ((1,), (1, 1))
    each = len(found) == 2 and found[0] == rows and found[1] > 0
    wanted = found if one or each else (rows, 1)
    need_tensor(shapes, name, SCALE_DTYPES, wanted)
    return wanted


def _zeros(read: Read, module: str, shape: tuple[int, int], bits: int, packed: bool) -> Bytes:
    """uint8 [N, G]."""
    rows, groups = shape
    name = f"{module}.weight_zero_point"
    if packed:
        words = read(name, 0, -(-rows * bits // 32))
        return np.ascontiguousarray(unpack_bits(as_bytes(words.T), bits, rows).T)
    return np.broadcast_to(_unsigned(read(name, 0, rows), bits).reshape(-1, groups), shape)


def _unsigned(signed: Array, bits: int) -> Bytes:
    """int8 codes around 0 -> uint8 codes around 2^(bits - 1)."""
    return (signed.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)


def _said(facts: Facts, packed: bool) -> Facts:
    """What the config says of all matrices, if it says one thing of all."""
    groups = section(facts, "config_groups")
    if len(groups) != 1:
        return {}
    weights = section(section(groups, next(iter(groups))), "weights")
    said = {"group_size": weights.get("group_size")}
    return said | ({"bits": weights.get("num_bits")} if packed else {})
