"""Tensors of a quantized checkpoint and what its config says of them: found, and their rows."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np

from arkinfer.errors import CheckpointError, UnsupportedError
from arkinfer.frontend.quantized import find
from arkinfer.limits import LimitError, are_sizes, parse_json
from fuzz.files import refusing
from fuzz.structure import BREAK

DICTIONARY = [
    "qweight", "qzeros", "scales", "g_idx", "biases", "weight_packed", "weight_scale", "B", "s",
    "weight_shape", "weight_zero_point", "weight_g_idx", "checkpoint_format", "gptq_v2", "sym",
    "meta", "quantizer", "gptqmodel", "dynamic", "bits", "group_size", "config_groups", "version",
    "transform_config", "mode", "int32", "int64", "int8", "uint32", "float16", "bfloat16",
]  # fmt: skip
IS_JSON = True
LENGTH = 4096

_MODULE = "model.layers.0.mlp.up_proj"
_SHAPE = 64, 64
_DTYPES = {
    name: np.dtype(name) for name in ("int32", "int64", "int8", "uint32", "float16", "float32")
} | {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn)}
_MOST = 1 << 16
"""Elements of a tensor: what is not larger can be made here."""


def seeds() -> list[bytes]:
    """Shapes of the parts of one matrix [64, 64], and the config's section."""
    scales = ["float16", [2, 64]]
    layouts: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (
            {"qweight": ["int32", [8, 64]], "qzeros": ["int32", [2, 8]], "scales": scales,
             "g_idx": ["int32", [64]], "bias": ["float16", [64]]},
            {"bits": 4, "group_size": 32, "sym": False, "checkpoint_format": "gptq",
             "meta": {"quantizer": ["gptqmodel:7"]}, "dynamic": {}},
        ),
        (
            {"qweight": ["int32", [64, 8]], "qzeros": ["int32", [2, 8]], "scales": scales},
            {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"},
        ),
        ({"qweight": ["int32", [4, 128]], "scales": scales}, {"bits": 4, "group_size": 32}),
        (
            {"weight_packed": ["int32", [64, 8]], "weight_scale": ["bfloat16", [64, 2]],
             "weight_shape": ["int64", [2]], "weight_zero_point": ["int32", [8, 2]],
             "weight_g_idx": ["int32", [64]]},
            {"config_groups": {"a": {"weights": {"num_bits": 4, "group_size": 32}}}},
        ),
        ({"weight": ["int8", [64, 64]], "weight_scale": ["float32", [64, 1]]}, {}),
        (
            {"weight": ["uint32", [64, 12]], "scales": ["float16", [64, 1]],
             "biases": ["float32", [64, 1]]},
            {"bits": 6, "group_size": 64, "mode": "affine"},
        ),
    ]  # fmt: skip
    return [BREAK.join(json.dumps(part).encode() for part in layout) for layout in layouts]


def one(data: bytes) -> None:
    try:
        table, facts = (parse_json(part) for part in (*data.split(BREAK), b"{}")[:2])
    except (LimitError, ValueError):
        return
    tensors = _tensors(table, len(data))
    if not isinstance(facts, dict):
        return  # the config's reader sees to it
    shapes = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}

    def read(name: str, start: int, stop: int) -> np.ndarray[Any, Any]:
        assert 0 <= start <= stop <= len(tensors[name]), f"{name}[{start}:{stop}]"
        return tensors[name][start:stop].copy()

    with refusing(CheckpointError, UnsupportedError):
        for matrix in find(shapes, {f"{_MODULE}.weight": _SHAPE}, facts, read).values():
            assert matrix.rows(read, 3, 9).dequantize().shape == (6, _SHAPE[1])


def _tensors(table: object, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Random bytes, but few in indices, of which random ones are refused at once."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for part, entry in table.items() if isinstance(table, dict) else ():
        match entry:
            case [str(dtype), [*shape]] if dtype in _DTYPES and are_sizes(shape):
                count = int(np.prod(shape, dtype=np.float64).clip(max=_MOST + 1))
                if count > _MOST:
                    continue
                kind = _DTYPES[dtype]
                made = rng.integers(0, 256, count * kind.itemsize, dtype=np.uint8).view(kind)
                if part.endswith("g_idx"):
                    made = (np.arange(count) // 32).astype(kind)
                if part == "weight_shape":
                    made = np.array(_SHAPE, kind)[:count]
                if "float" in kind.name:  # of the size of scales; others are refused at once
                    made = np.tanh(np.nan_to_num(made.astype(np.float32))).astype(kind)
                if len(made) == count:
                    tensors[f"{_MODULE}.{part}"] = made.reshape(shape)
            case _:
                pass
    return tensors
