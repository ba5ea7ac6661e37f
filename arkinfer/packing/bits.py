"""Packs unsigned codes of 2 to 8 bits into bytes, low bits first. Knows nothing of scales.

Code i occupies bits i*b … i*b + b - 1 of the little-endian bit string of its row; for 2, 4 and
8 bits this equals the layout of ONNX Runtime's `com.microsoft.MatMulNBits`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` codes take: the last byte is padded with zero bits."""
    return -(-count * bits // 8)


def pack_bits(codes: npt.NDArray[Any], bits: int) -> Bytes:
    """uint8 [..., n] of codes below 2^bits -> uint8 [..., ceil(n * bits / 8)].

    >>> pack_bits(np.array([1, 2, 3], np.uint8), 4).tolist()
    [33, 3]
    """
    codes = np.ascontiguousarray(codes, dtype=np.uint8)
    if bits == 8:
        return codes
    if 8 % bits == 0:
        per_byte = 8 // bits
        padding = -codes.shape[-1] % per_byte
        if padding:
            codes = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, padding)])
        lanes = codes.reshape(*codes.shape[:-1], codes.shape[-1] // per_byte, per_byte)
        packed = lanes[..., 0].copy()
        for lane in range(1, per_byte):
            packed |= lanes[..., lane] << np.uint8(lane * bits)
        return packed
    string = np.unpackbits(codes[..., None], axis=-1, bitorder="little", count=bits)
    return np.packbits(
        string.reshape(*codes.shape[:-1], codes.shape[-1] * bits), axis=-1, bitorder="little"
    )


def unpack_bits(packed: Bytes, bits: int, count: int) -> Bytes:
    """The inverse of `pack_bits`: uint8 [..., bytes] -> uint8 [..., count]."""
    if bits == 8:
        return packed[..., :count]
    if 8 % bits == 0:
        per_byte = 8 // bits
        codes = np.empty((*packed.shape, per_byte), np.uint8)
        mask = np.uint8((1 << bits) - 1)
        for lane in range(per_byte):
            codes[..., lane] = (packed >> np.uint8(lane * bits)) & mask
        return codes.reshape(*packed.shape[:-1], packed.shape[-1] * per_byte)[..., :count]
    string = np.unpackbits(packed, axis=-1, bitorder="little", count=count * bits)
    lanes = string.reshape(*packed.shape[:-1], count, bits)
    return np.packbits(lanes, axis=-1, bitorder="little")[..., 0]
