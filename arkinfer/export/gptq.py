"""Writes a folder in the form of GPTQ, which transformers, vLLM and SGLang load.

The layout is described in `arkinfer/frontend/quantized/gptq.py`. Symmetric checkpoints are
written with the old form of zero points, which every loader knows; where a matrix has zero points
of its own, all are written as `gptq_v2`, which can hold a zero of 0. Knows no method.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from arkinfer import __version__
from arkinfer.export import Request, Written
from arkinfer.export.quantized_folder import write_folder
from arkinfer.export.safetensors_file import Entry
from arkinfer.export.source import is_linear
from arkinfer.packing import QuantizedTensor, Scheme, pack_bits, unpack_bits

if TYPE_CHECKING:
    from arkinfer.frontend.checkpoint import Checkpoint
    from arkinfer.frontend.leaves import Tensors

Array = npt.NDArray[Any]

BITS = (2, 3, 4, 8)


def write(checkpoint: Checkpoint, tensors: Tensors, request: Request) -> Written:
    """See `arkinfer.export.Format`."""
    return write_folder(checkpoint, tensors, request, Gptq, "gptq")


class Gptq:
    """The layout; see `arkinfer.export.quantized_folder.Layout`."""

    def __init__(self, source: Tensors, schemes: Mapping[str, Scheme]) -> None:
        self._source = source
        self._schemes = schemes
        self._version = 2 if any(s.offset == "zero" for s in schemes.values()) else 1
        self._last: tuple[str, dict[str, Array]] = ("", {})

    @staticmethod
    def problem(scheme: Scheme) -> str:
        if scheme.offset == "min":
            return "GPTQ has integer zero points, and no float minimum"
        known = ", ".join(map(str, BITS))
        return "" if scheme.bits in BITS else f"GPTQ has {known} bits, not {scheme.bits}"

    @staticmethod
    def scale_dtype(own: np.dtype[Any]) -> np.dtype[Any]:
        return np.dtype(np.float16)  # loaders know no other

    def entries(self, name: str) -> list[Entry]:
        rows, columns = self._source.shape(name)
        scheme = self._schemes[name]
        groups, bits = columns // scheme.group_size(columns), scheme.bits
        scales = self._source.quantized(name, 0, 1).scale
        shapes: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
            "qweight": (np.dtype(np.int32), (-(-columns * bits // 32), rows)),
            "qzeros": (np.dtype(np.int32), (groups, -(-rows * bits // 32))),
            "scales": (scales.dtype, (groups, rows)),
            "g_idx": (np.dtype(np.int32), (columns,)),
        }
        module = name.removesuffix(".weight")
        return [
            Entry(f"{module}.{part}", dtype, shape, partial(self._part, name, part))
            for part, (dtype, shape) in shapes.items()
        ]

    def config(self) -> dict[str, Any]:
        kinds = Counter(self._schemes.values())
        common = kinds.most_common(1)[0][0]
        config: dict[str, Any] = {
            "quant_method": "gptq",
            "bits": common.bits,
            "group_size": common.group or -1,
            "desc_act": any(scheme.act_order for scheme in kinds),
            "sym": self._version == 1,
            "lm_head": False,
            "checkpoint_format": "gptq" if self._version == 1 else "gptq_v2",
            "pack_dtype": "int32",
            "meta": {"quantizer": [f"arkinfer:{__version__}"]},
        }
        others = self._others(common)
        return config | ({"dynamic": others} if others else {})

    def _others(self, common: Scheme) -> dict[str, dict[str, Any]]:
        """Matrices that differ from most, and those that are not quantized."""
        others: dict[str, dict[str, Any]] = {}
        for name in self._source.names():
            module = re.escape(name.removesuffix(".weight"))
            scheme = self._schemes.get(name)
            if scheme is None and is_linear(name):
                others[f"-:^{module}$"] = {}
            elif scheme is not None and (scheme.bits, scheme.group) != (common.bits, common.group):
                own = {"bits": scheme.bits, "group_size": scheme.group or -1}
                others[f"+:^{module}$"] = own
        return others

    def _part(self, name: str, part: str) -> Iterator[Array]:
        """A matrix is made once for its four tensors, which lie one after the other."""
        if self._last[0] != name:
            self._last = ("", {})  # before the next one is made: never two
            tensor = self._source.quantized(name, 0, self._source.shape(name)[0])
            self._last = (name, gptq_parts(tensor, self._version))
        yield self._last[1][part]


def gptq_parts(tensor: QuantizedTensor, version: int) -> dict[str, Array]:
    """`qweight`, `qzeros`, `scales`, `g_idx` of a matrix; `version` 1 or 2 of the zero points."""
    rows, columns = tensor.shape
    bits, size = tensor.scheme.bits, tensor.group
    codes = tensor.codes.reshape(rows, -1)
    index = np.arange(columns, dtype=np.int32) // size
    if tensor.order is not None:
        unpacked = unpack_bits(codes, bits, columns)
        restored = np.empty_like(unpacked)
        restored[:, tensor.order] = unpacked
        codes = pack_bits(restored, bits)
        in_order, index = index, np.empty_like(index)
        index[tensor.order] = in_order
    zeros = np.ascontiguousarray(tensor.zeros().T)
    if version == 1:
        zeros = (zeros - np.uint8(1)) & np.uint8((1 << bits) - 1)
    return {
        "qweight": np.ascontiguousarray(as_words(codes).T),
        "qzeros": as_words(pack_bits(zeros, bits)),
        "scales": np.ascontiguousarray(tensor.scale.T),
        "g_idx": index,
    }


def as_words(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """uint8 [..., n] -> little-endian int32 [..., ceil(n / 4)], the last one filled up with 0."""
    padding = -packed.shape[-1] % 4
    whole = np.pad(packed, [(0, 0)] * (packed.ndim - 1) + [(0, padding)])
    return whole.view("<i4").astype(np.int32, copy=False)
