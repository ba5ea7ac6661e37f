"""The block types of GGUF, brought into the canonical form bit by bit. Knows no file and no name.

Each type packs a fixed number of weights with their scales; here their codes and scales are only
laid out anew, so that dequantizing gives the numbers that ggml's own routines give, in float32.

Source: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h and ggml-quants.c
(`dequantize_row_*`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from arkinfer.errors import CheckpointError
from arkinfer.packing import QuantizedTensor, Scheme, encode

Bytes: TypeAlias = npt.NDArray[np.uint8]
Parts: TypeAlias = "tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any] | None]"
"""Codes [blocks, groups, g], scales [blocks, groups], minima of the same shape or None."""


@dataclass(frozen=True)
class BlockType:
    """One way to store rows of numbers.

    Attributes:
        name: as ggml calls it.
        elements: numbers in a block.
        nbytes: that a block takes.
        dtype: of the numbers where they are stored as such; then a block is one number.
        scheme: of the canonical form; None for plain numbers.
        split: takes blocks, uint8 [blocks, nbytes], apart.
    """

    name: str
    elements: int
    nbytes: int
    dtype: np.dtype[Any] | None = None
    scheme: Scheme | None = None
    split: Callable[[Bytes], Parts] | None = None

    def decode(self, rows: Bytes) -> QuantizedTensor:
        """Rows of blocks, uint8 [N, K / elements * nbytes], in canonical form with float32 scales.

        Raises:
            CheckpointError: a scale is not finite, or a ternary code stands for no number.
        """
        assert self.scheme is not None
        assert self.split is not None
        with np.errstate(invalid="ignore"):
            codes, scale, low = self.split(rows.reshape(-1, self.nbytes))
        if not np.isfinite(scale).all() or (low is not None and not np.isfinite(low).all()):
            raise _broken(f"A {self.name} block holds a scale that is not finite")
        count = rows.shape[0]
        group = codes.shape[-1]
        return encode(
            self.scheme,
            codes.astype(np.uint8, copy=False).reshape(count, -1, group),
            scale.astype(np.float32, copy=False).reshape(count, -1),
            min=None if low is None else low.astype(np.float32, copy=False).reshape(count, -1),
        )


def _half(blocks: Bytes, at: int) -> npt.NDArray[np.float32]:
    """The fp16 number at a byte of every block, float32 [blocks, 1]."""
    return blocks[:, at : at + 2].copy().view("<f2").astype(np.float32)


def _nibbles(data: Bytes) -> Bytes:
    """[..., n] -> [..., 2n]: all low halves, then all high ones."""
    halves: Any = (data & 15, data >> 4)
    return np.concatenate(halves, axis=-1)


def _fifth_bits(words: Bytes) -> Bytes:
    """The fifth bits of 32 codes out of four bytes: [blocks, 4] -> [blocks, 32], 0 or 16."""
    return np.unpackbits(words, axis=-1, bitorder="little") << np.uint8(4)


def _q4_0(b: Bytes) -> Parts:
    return _nibbles(b[:, 2:])[:, None], _half(b, 0), None


def _q4_1(b: Bytes) -> Parts:
    return _nibbles(b[:, 4:])[:, None], _half(b, 0), _half(b, 2)


def _q5_0(b: Bytes) -> Parts:
    return (_nibbles(b[:, 6:]) | _fifth_bits(b[:, 2:6]))[:, None], _half(b, 0), None


def _q5_1(b: Bytes) -> Parts:
    return (_nibbles(b[:, 8:]) | _fifth_bits(b[:, 4:8]))[:, None], _half(b, 0), _half(b, 2)


def _q8_0(b: Bytes) -> Parts:
    return (b[:, 2:] ^ np.uint8(128))[:, None], _half(b, 0), None  # two's complement + 128


def _six_bits(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Eight scales and eight minima of six bits out of twelve bytes: [blocks, 8] each."""
    parts: Any = (packed[:, :4], packed[:, 4:8], packed[:, 8:])
    low, high, rest = parts
    scale = np.concatenate((low & 63, rest & 15 | low >> 6 << 4), axis=1)
    minimum = np.concatenate((high & 63, rest >> 4 | high >> 6 << 4), axis=1)
    return scale, minimum


def _k_scales(b: Bytes) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Exact: 11 significant bits times 6 fit into float32."""
    scale, minimum = _six_bits(b[:, 4:16])
    return _half(b, 0) * scale, -(_half(b, 2) * minimum)


def _q4_k(b: Bytes) -> Parts:
    codes = _nibbles(b[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    return codes, *_k_scales(b)


def _q5_k(b: Bytes) -> Parts:
    low = _nibbles(b[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    high = b[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    return low | high << 4, *_k_scales(b)


def _q6_k(b: Bytes) -> Parts:
    low = _nibbles(b[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    high = b[:, 128:192].reshape(-1, 2, 1, 32) >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3
    scale = _half(b, 208) * b[:, 192:208].view(np.int8)
    return (low | high << 4).reshape(-1, 16, 16), scale, None


def _tq1_0(b: Bytes) -> Parts:
    parts: list[Bytes] = []
    for start, stop, digits in ((0, 32, 5), (32, 48, 5), (48, 52, 4)):
        powers = (3 ** np.arange(digits)).astype(np.uint8)[:, None]
        turned = b[:, None, start:stop] * powers  # modulo 256
        trits = (turned.astype(np.uint16) * 3 >> 8).astype(np.uint8)
        parts.append(trits.reshape(len(b), -1))
    return np.concatenate(parts, axis=1)[:, None] + np.uint8(1), _half(b, 52), None


def _tq2_0(b: Bytes) -> Parts:
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    trits = (b[:, :64].reshape(-1, 2, 1, 32) >> shifts & 3).reshape(-1, 1, 256)
    if (trits == 3).any():
        raise _broken("A TQ2_0 block holds a code that is none of -1, 0 and 1")
    return trits + np.uint8(1), _half(b, 64), None


def _broken(what: str) -> CheckpointError:
    return CheckpointError(what, "The file is damaged", "Download or copy it again.")


def _packed(
    name: str, elements: int, nbytes: int, scheme: Scheme, split: Callable[[Bytes], Parts]
) -> BlockType:
    return BlockType(name, elements, nbytes, None, scheme, split)


def _plain(name: str, dtype: npt.DTypeLike) -> BlockType:
    found = np.dtype(dtype)
    return BlockType(name, 1, found.itemsize, found)


TYPES: dict[int, BlockType] = {
    0: _plain("F32", "<f4"),
    1: _plain("F16", "<f2"),
    30: _plain("BF16", ml_dtypes.bfloat16),
    2: _packed("Q4_0", 32, 18, Scheme(4, 32), _q4_0),
    3: _packed("Q4_1", 32, 20, Scheme(4, 32, "min"), _q4_1),
    6: _packed("Q5_0", 32, 22, Scheme(5, 32), _q5_0),
    7: _packed("Q5_1", 32, 24, Scheme(5, 32, "min"), _q5_1),
    8: _packed("Q8_0", 32, 34, Scheme(8, 32), _q8_0),
    12: _packed("Q4_K", 256, 144, Scheme(4, 32, "min"), _q4_k),
    13: _packed("Q5_K", 256, 176, Scheme(5, 32, "min"), _q5_k),
    14: _packed("Q6_K", 256, 210, Scheme(6, 16), _q6_k),
    34: _packed("TQ1_0", 256, 54, Scheme(2, 256), _tq1_0),
    35: _packed("TQ2_0", 256, 66, Scheme(2, 256), _tq2_0),
}
"""By the number that a file's table of tensors has."""

_OTHERS = {
    9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS",
    19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16",
    26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 39: "MXFP4", 40: "NVFP4",
}  # fmt: skip


def type_name(kind: int) -> str:
    """What ggml calls the type with that number."""
    return TYPES[kind].name if kind in TYPES else _OTHERS.get(kind, f"the unknown type {kind}")
