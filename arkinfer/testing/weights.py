"""Seeded random weights, any rows of any tensor without the rest. Knows no file format.

Every element is one 16-bit draw of a counter-based generator, looked up in the 65,536 quantiles
of a normal distribution: exact in shape, four times faster than drawing normals, and random access.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from arkinfer.errors import UnsupportedError, nearest
from arkinfer.models.config import ModelConfig

DTYPES: dict[str, np.dtype[Any]] = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
}
"""`torch_dtype` of config.json -> numpy."""

_PER_COUNTER = 16
"""16-bit draws per step of Philox 4x64."""


def stored_dtype(config: ModelConfig) -> np.dtype[Any]:
    """The dtype of all weights of a checkpoint.

    Raises:
        UnsupportedError: config.json names one that checkpoints do not come in.
    """
    if config.torch_dtype not in DTYPES:
        raise UnsupportedError(
            f'No checkpoint can be made with torch_dtype "{config.torch_dtype}"',
            "",
            nearest(config.torch_dtype, DTYPES),
        )
    return DTYPES[config.torch_dtype]


def random_rows(
    config: ModelConfig,
    seed: int,
    name: str,
    start: int = 0,
    stop: int | None = None,
    *,
    ternary: int = 0,
) -> npt.NDArray[Any]:
    """Rows [start:stop) of a tensor as `make_checkpoint` writes them, in its dtype."""
    shape = config.tensor_shapes()[name]
    stop = shape[0] if stop is None else stop
    width = math.prod(shape[1:])
    mean, std = _moments(config, name)
    flat = _draw(seed, name, start * width, stop * width, _quantiles(mean, std, config.torch_dtype))
    rows = flat.reshape(stop - start, *shape[1:])
    return _made_ternary(rows, ternary) if ternary and ".layers." in name and width > 1 else rows


def _made_ternary(rows: npt.NDArray[Any], parts: int) -> npt.NDArray[Any]:
    """Every part of a row as s * clamp(round(w / s), -1, 1) with s = mean |w|."""
    groups = rows.astype(np.float32).reshape(len(rows), parts, -1)
    scale = np.abs(groups).mean(axis=-1, keepdims=True)
    signs = np.clip(np.rint(groups / scale), -1, 1)
    return (signs * scale).reshape(rows.shape).astype(rows.dtype)


def _moments(config: ModelConfig, name: str) -> tuple[float, float]:
    """Mean and standard deviation that keep activations near 1 and give logits a real spread."""
    if name.endswith("norm.weight"):
        return 1.0, 0.1
    spread = 2.0 * config.logit_divisor / math.sqrt(config.hidden_size)  # of a head: logits ~ 2
    if name == "lm_head.weight":
        return 0.0, spread
    if name == "model.embed_tokens.weight":
        unit = 1.0 / config.embedding_scale
        return 0.0, min(unit, spread) if config.tie_word_embeddings else unit
    return 0.0, 1.0 / math.sqrt(config.tensor_shapes()[name][-1])


@lru_cache(maxsize=1)
def _normal_quantiles() -> npt.NDArray[np.float64]:
    """65,536 quantiles of the unit normal, ascending and exactly symmetric."""
    normal = NormalDist()
    upper = [normal.inv_cdf(0.5 + (i + 0.5) / 65536) for i in range(32768)]
    return np.asarray([-z for z in reversed(upper)] + upper)


@lru_cache(maxsize=64)
def _quantiles(mean: float, std: float, torch_dtype: str) -> npt.NDArray[Any]:
    return (mean + std * _normal_quantiles()).astype(np.float32).astype(DTYPES[torch_dtype])


def _draw(seed: int, name: str, start: int, stop: int, table: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Elements [start, stop) of a tensor in row-major order."""
    key = hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16]
    first = start // _PER_COUNTER
    generator = np.random.Philox(key=int.from_bytes(key, "little"), counter=first)
    skip = start - first * _PER_COUNTER
    words = generator.random_raw((skip + stop - start + 3) // 4)
    indices = words.astype("<u8", copy=False).view("<u2")[skip : skip + stop - start]
    bits = table.view(f"u{table.itemsize}")
    return np.take(bits, indices, mode="wrap").view(table.dtype)
