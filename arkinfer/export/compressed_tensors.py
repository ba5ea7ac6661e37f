"""Writes a folder in the form of compressed-tensors, which transformers, vLLM and SGLang load.

The layout is described in `arkinfer/frontend/quantized/compressed_tensors.py`; all matrices are
written as `pack-quantized`, weights only. Knows no method.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from arkinfer.export import Request, Written
from arkinfer.export.gptq import as_words
from arkinfer.export.quantized_folder import write_folder
from arkinfer.export.safetensors_file import Entry
from arkinfer.export.source import is_linear
from arkinfer.packing import QuantizedTensor, Scheme, pack_bits

if TYPE_CHECKING:
    from arkinfer.frontend.checkpoint import Checkpoint
    from arkinfer.frontend.leaves import Tensors

Array = npt.NDArray[Any]


def write(checkpoint: Checkpoint, tensors: Tensors, request: Request) -> Written:
    """See `arkinfer.export.Format`."""
    return write_folder(checkpoint, tensors, request, CompressedTensors, "compressed-tensors")


class CompressedTensors:
    """The layout; see `arkinfer.export.quantized_folder.Layout`."""

    def __init__(self, source: Tensors, schemes: Mapping[str, Scheme]) -> None:
        self._source = source
        self._schemes = schemes
        self._last: tuple[str, dict[str, Array]] = ("", {})

    @staticmethod
    def problem(scheme: Scheme) -> str:
        if scheme.offset == "min":
            return "compressed-tensors has integer zero points, and no float minimum"
        return "compressed-tensors has no order of inputs" if scheme.act_order else ""

    @staticmethod
    def scale_dtype(own: np.dtype[Any]) -> np.dtype[Any]:
        return own  # loaders convert scales to it

    def entries(self, name: str) -> list[Entry]:
        rows, columns = self._source.shape(name)
        scheme = self._schemes[name]
        groups, bits = columns // scheme.group_size(columns), scheme.bits
        scales = self._source.quantized(name, 0, 1).scale
        shapes: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
            "weight_packed": (np.dtype(np.int32), (rows, -(-columns * bits // 32))),
            "weight_scale": (scales.dtype, (rows, groups)),
            "weight_shape": (np.dtype(np.int64), (2,)),
        }
        if scheme.offset == "zero":
            shapes["weight_zero_point"] = np.dtype(np.int32), (-(-rows * bits // 32), groups)
        module = name.removesuffix(".weight")
        return [
            Entry(f"{module}.{part}", dtype, shape, partial(self._part, name, part))
            for part, (dtype, shape) in shapes.items()
        ]

    def config(self) -> dict[str, Any]:
        """Matrices that share a scheme are a group; the targets are classes where that is enough,
        else names."""
        by_scheme: dict[Scheme, list[str]] = {}
        for name, scheme in self._schemes.items():
            by_scheme.setdefault(scheme, []).append(name.removesuffix(".weight"))
        dense = [n for n in self._source.names() if is_linear(n) and n not in self._schemes]
        ignored = ["lm_head", *(name.removesuffix(".weight") for name in dense)]
        groups = {
            f"group_{number}": _group(scheme, names if len(by_scheme) > 1 else ["Linear"])
            for number, (scheme, names) in enumerate(by_scheme.items())
        }
        return {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": groups,
            "ignore": ignored,
            "kv_cache_scheme": None,
            "global_compression_ratio": None,
        }

    def _part(self, name: str, part: str) -> Iterator[Array]:
        """A matrix is made once for its tensors, which lie one after the other."""
        shape = self._source.shape(name)
        if self._last[0] != name:
            self._last = ("", {})  # before the next one is made: never two
            self._last = (name, packed_parts(self._source.quantized(name, 0, shape[0])))
        yield self._last[1][part]


def packed_parts(tensor: QuantizedTensor) -> dict[str, Array]:
    """`weight_packed`, `weight_scale`, `weight_shape`, and `weight_zero_point` if there is one."""
    parts = {
        "weight_packed": as_words(tensor.codes.reshape(tensor.shape[0], -1)),
        "weight_scale": tensor.scale,
        "weight_shape": np.array(tensor.shape, np.int64),
    }
    if tensor.zero is not None:
        zeros = pack_bits(np.ascontiguousarray(tensor.zeros().T), tensor.scheme.bits)
        parts["weight_zero_point"] = np.ascontiguousarray(as_words(zeros).T)
    return parts


def _group(scheme: Scheme, targets: list[str]) -> dict[str, Any]:
    return {
        "targets": targets,
        "weights": {
            "num_bits": scheme.bits,
            "type": "int",
            "symmetric": scheme.offset == "none",
            "strategy": "group" if scheme.group else "channel",
            "group_size": scheme.group or None,
            "dynamic": False,
            "actorder": None,
            "observer": "minmax",
        },
        "input_activations": None,
        "output_activations": None,
    }
