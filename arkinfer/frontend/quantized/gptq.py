"""Reads GPTQ checkpoints: AutoGPTQ's and GPTQModel's `qweight`, `qzeros`, `scales`, `g_idx`.

Of a matrix [N, K] of b bits: `qweight` int32 [ceil(K b / 32), N], a column's codes one after the
other, low bits first; `scales` [G, N]; `qzeros` int32 [G, ceil(N b / 32)], packed along N;
`g_idx` int32 [K], the group of each input. W[n, k] = scales[g, n] (q[k, n] - zero[g, n]).

The zero points come in two forms. v1 (`checkpoint_format: "gptq"`) stores zero - 1, so that a
symmetric 4-bit file holds 7 everywhere; v2 (`gptq_v2`) stores the zero, 8. A zero of 0 has no
predecessor: v1 wraps around. GPTQModel subtracts from whole words, so that a field borrows from
the next one; others wrap each field for itself. Each reading undoes what its writer did, and
GPTQModel signs its files (`meta.quantizer`). Source: `nn_modules/qlinear` of AutoGPTQ 0.7.1,
`utils/model.py` of GPTQModel 7.7. Knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from arkinfer.errors import CheckpointError, UnsupportedError, nearest
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
    bits_by_shape,
    check_bias,
    make_scheme,
    module_of,
    need_scales,
    need_tensor,
    order_of,
    section,
    turned_scales,
)
from arkinfer.packing import QuantizedTensor, Scheme, pack_bits, unpack_bits

BITS = (2, 3, 4, 8)

VERSIONS = {"gptq": 1, "gptq_v2": 2, "gptq_p": 2}
"""`checkpoint_format` -> how zeros are stored. `gptq_p` packs 2, 4 and 8 bits like the others."""


@dataclass(frozen=True)
class ZeroForm:
    """How a checkpoint stores zero points: `version` 1 or 2; `carries`: v1 of whole words."""

    version: int
    carries: bool = False

    def decode(self, words: Array, bits: int, count: int) -> Bytes:
        """int32 [G, ceil(count b / 32)] -> the zero points, uint8 [G, count]."""
        if self.version == 1 and self.carries and 32 % bits == 0:
            ones = np.uint32(sum(1 << shift for shift in range(0, 32, bits)))
            words = words.astype(np.uint32) + ones
        fields = _fields(words, bits, count)
        if self.version == 2 or (self.carries and 32 % bits == 0):
            return fields
        return (fields + np.uint8(1)) & np.uint8((1 << bits) - 1)


@dataclass(frozen=True, eq=False)
class GptqMatrix:
    """One matrix; `module` is its name without `.weight`."""

    scheme: Scheme
    shape: tuple[int, int]
    tensors: tuple[str, ...]
    module: str
    zero_form: ZeroForm
    last: LastConverted = field(repr=False)

    def rows(self, read: Read, start: int, stop: int) -> QuantizedTensor:
        return self.last.rows(self.module, lambda: self._convert(read), start, stop)

    def _convert(self, read: Read) -> QuantizedTensor:
        count, columns = self.shape
        bits, size = self.scheme.bits, self.scheme.group_size(columns)
        groups = columns // size
        check_bias(read, self.module, self.tensors, count)
        order = None
        if self.scheme.act_order:
            name = f"{self.module}.g_idx"
            order = order_of(name, read(name, 0, columns), groups)
        words = read(f"{self.module}.qweight", 0, -(-columns * bits // 32))
        codes = np.empty((count, groups, size * bits // 8), np.uint8)
        step = max(1, BLOCK // columns)
        for start in range(0, count, step):
            packed = as_bytes(words[:, start : start + step].T)
            if order is not None:
                packed = pack_bits(unpack_bits(packed, bits, columns)[:, order], bits)
            some = codes[start : start + step]
            some[...] = packed[:, : columns * bits // 8].reshape(some.shape)
        scale = turned_scales(read, self.module, groups)
        zero = None
        if self.scheme.offset == "zero":
            fields = self.zero_form.decode(read(f"{self.module}.qzeros", 0, groups), bits, count)
            zero = pack_bits(np.ascontiguousarray(fields.T), bits)
        return QuantizedTensor(self.scheme, self.shape, codes, scale, zero, None, order)


def find(
    shapes: Shapes, expected: Mapping[str, tuple[int, int]], facts: Facts, read: Read
) -> dict[str, GptqMatrix]:
    """The matrices that are there in this form, by their `….weight` name.

    Reads all zero points, which tell whether a matrix is symmetric, and all `g_idx`.

    Raises:
        CheckpointError: tensors that contradict each other or the config.
        UnsupportedError: groups of different sizes, words of other than 32 bits, a form of zeros
            that is not known.
    """
    told = facts.get("bits")
    here = {n: bits for n, size in expected.items() if (bits := _bits(shapes, n, size, told))}
    stored: dict[str, tuple[int, int]] = {}
    groups: dict[str, int] = {}
    for name, bits in here.items():
        groups[name] = _check(shapes, module_of(name), expected[name], bits)
        words = read(f"{module_of(name)}.qzeros", 0, groups[name])
        fields = _fields(words, bits, expected[name][0])
        stored[name] = int(fields.min()), int(fields.max())
    form = _zero_form(facts, [(here[name], span) for name, span in stored.items()])
    said = {} if facts.get("dynamic") else facts
    last = LastConverted()
    found: dict[str, GptqMatrix] = {}
    for name, bits in here.items():
        module, shape = module_of(name), expected[name]
        if bits == 3 and facts.get("checkpoint_format") == "gptq_p":
            raise UnsupportedError(
                f"{module}.qweight has 3 bits in planes (gptq_p)",
                "Of 3 bits only the form of gptq and gptq_v2 is read",
                "Save it again with GPTQModel as gptq_v2.",
            )
        used = [f"{module}.{part}" for part in ("qweight", "qzeros", "scales")]
        order = None
        if f"{module}.g_idx" in shapes:
            used.append(f"{module}.g_idx")
            order = order_of(used[-1], read(used[-1], 0, shape[1]), groups[name])
        used += bias_of(shapes, module, shape[0])
        middle = (1 << (bits - 1)) - (form.version == 1)
        offset = "none" if stored[name] == (middle, middle) else "zero"
        scheme = make_scheme(
            f"{module}.scales", bits, shape, groups[name], said=said, offset=offset,
            act_order=order is not None,
        )  # fmt: skip
        found[name] = GptqMatrix(scheme, shape, tuple(used), module, form, last)
    return found


def _fields(words: Array, bits: int, count: int) -> Bytes:
    return unpack_bits(as_bytes(words), bits, count)


def _bits(shapes: Shapes, name: str, shape: tuple[int, int], told: object) -> int | None:
    """Bits of a matrix that is there in this form; None: it is not."""
    module = module_of(name)
    if name in shapes or f"{module}.qzeros" not in shapes or f"{module}.qweight" not in shapes:
        return None
    rows, columns = shape
    widths = {bits: (-(-columns * bits // 32), rows) for bits in BITS}
    return bits_by_shape(shapes[f"{module}.qweight"][1], widths, told)


def _check(shapes: Shapes, module: str, shape: tuple[int, int], bits: int) -> int:
    """The number of groups."""
    rows, columns = shape
    words = -(-columns * bits // 32), rows
    need_tensor(shapes, f"{module}.qweight", (np.int32,), words)
    groups = need_scales(shapes, f"{module}.scales", None, rows)
    need_tensor(shapes, f"{module}.qzeros", (np.int32,), (groups, -(-rows * bits // 32)))
    if f"{module}.g_idx" in shapes:
        need_tensor(shapes, f"{module}.g_idx", (np.int32, np.int64), (columns,))
    return groups


def _zero_form(facts: Facts, stored: list[tuple[int, tuple[int, int]]]) -> ZeroForm:
    """What the config says; where it is silent, what the zeros say.

    Args:
        facts: the config.
        stored: of every matrix its bits, and the least and the largest field of its zeros.
    """
    quantizer = str(section(facts, "meta").get("quantizer", ""))
    carries = "gptqmodel" in quantizer.lower()
    told = None
    for version, less in ((1, 1), (2, 0)):
        if all(low == high == (1 << (bits - 1)) - less for bits, (low, high) in stored):
            told = version
    name = facts.get("checkpoint_format")
    if name is None or not stored:
        silent = None if facts.get("sym") is False else told
        return ZeroForm(silent or 1, carries)
    if (version := VERSIONS.get(str(name))) is None:
        raise UnsupportedError(
            f'config.json has "checkpoint_format": "{name}", and weights in the form of GPTQ',
            "How their zero points are stored is unknown",
            nearest(str(name), VERSIONS),
        )
    if facts.get("sym") is True and told not in (None, version):
        raise CheckpointError(
            f'config.json says "checkpoint_format": "{name}" and "sym": true',
            f"The zero points are those of a symmetric {_name(told)} checkpoint",
            "Correct the config.json: the two forms differ by one in every weight's code.",
        )
    return ZeroForm(version, carries)


def _name(version: int | None) -> str:
    return "gptq" if version == 1 else "gptq_v2"
