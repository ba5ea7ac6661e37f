"""Writes Hugging Face checkpoints of any shape from a seed. Knows no reader.

Weights stream block by block into the files, so that 16 GB need no more memory than 16 MB do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from arkinfer.models.config import ModelConfig, parse_config
from arkinfer.testing.presets import config_json, preset
from arkinfer.testing.tokenizer import make_tokenizer, tokenizer_config
from arkinfer.testing.weights import random_rows, stored_dtype

Format = Literal["safetensors", "bin"]

Rows: TypeAlias = Callable[..., npt.NDArray[Any]]
"""(name, start, stop) -> rows of a tensor."""

_BLOCK = 1 << 20
"""Elements that are drawn and written at a time."""

_SMALLEST_VOCABULARY = 272
"""256 bytes and the special tokens; below, no byte-level tokenizer fits."""


def make_checkpoint(
    config: Mapping[str, Any] | ModelConfig | str,
    seed: int,
    path: str | Path,
    *,
    shard_bytes: int = 5_000_000_000,
    tokenizer: bytes | None = None,
    format: Format = "safetensors",
    ternary: int = 0,
) -> Path:
    """A checkpoint of seeded random weights; the same arguments give the same bytes.

    Activations stay near 1 and logits have a standard deviation of 1 to 2, as trained models'.

    Args:
        config: keys of a config.json, a `ModelConfig`, or a name out of `PRESETS`.
        seed: any integer; every tensor draws from (seed, its name), whatever the sharding.
        path: the folder to write into; it is made.
        shard_bytes: tensors are split into files of at most this size (a larger one stands alone).
        tokenizer: a tokenizer.json to use; None: a small byte-level BPE with the MiniCPM4 chat
            template is made, unless the vocabulary is smaller than 272.
        format: "safetensors", or "bin" for pytorch_model.bin (needs torch, and the memory of
            one shard).
        ternary: scales per row of the layers' linears, which hold -s, 0 and +s only, as BitCPM's
            do; 0: they are dense.

    Returns:
        The folder.

    Raises:
        UsageError: there is no preset of that name.
        UnsupportedError, CheckpointError: the config is not one that arkinfer can run.
    """
    if isinstance(config, str):
        config = preset(config)
    raw = config_json(config) if isinstance(config, ModelConfig) else dict(config)
    model = parse_config(raw)
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", raw)
    _write_settings(folder, model, tokenizer)
    rows = partial(random_rows, model, seed, ternary=ternary)
    _write_weights(folder, model, rows, shard_bytes, format)
    return folder


def _write_settings(folder: Path, model: ModelConfig, tokenizer: bytes | None) -> None:
    ends = list(model.eos_token_ids)
    generation = {
        "bos_token_id": model.bos_token_id,
        "eos_token_id": ends,
        "do_sample": True,
        "temperature": 0.8,
        "top_p": 0.8,
    }
    _write_json(folder / "generation_config.json", generation)
    if tokenizer is None:
        if model.vocab_size < _SMALLEST_VOCABULARY:
            return
        tokenizer = make_tokenizer(model.vocab_size, model.bos_token_id, ends)
    (folder / "tokenizer.json").write_bytes(tokenizer)
    _write_json(folder / "tokenizer_config.json", tokenizer_config(json.loads(tokenizer)))


def _write_weights(
    folder: Path, model: ModelConfig, rows: Rows, shard_bytes: int, format: Format
) -> None:
    stem, suffix = ("model", "safetensors") if format == "safetensors" else ("pytorch_model", "bin")
    shapes, dtype = model.tensor_shapes(), stored_dtype(model)
    sizes = {name: math.prod(shape) * dtype.itemsize for name, shape in shapes.items()}
    shards = _shards(sizes, shard_bytes)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        part = f"-{number:05}-of-{len(shards):05}" if len(shards) > 1 else ""
        file = folder / f"{stem}{part}.{suffix}"
        write = _write_safetensors if format == "safetensors" else _write_bin
        write(file, model, rows, names)
        weight_map |= dict.fromkeys(names, file.name)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(sizes.values())},
            "weight_map": dict(sorted(weight_map.items())),
        }
        _write_json(folder / f"{stem}.{suffix}.index.json", index)


def _shards(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Names in the model's order, filled greedily as `save_pretrained` does."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _write_safetensors(file: Path, model: ModelConfig, rows: Rows, names: list[str]) -> None:
    """Source: the safetensors format: u64 header size, JSON header, data without gaps."""
    shapes, dtype = model.tensor_shapes(), stored_dtype(model)
    code = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}[dtype.name]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in sorted(names):
        end = offset + math.prod(shapes[name]) * dtype.itemsize
        header[name] = {
            "dtype": code,
            "shape": list(shapes[name]),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(names):
            for block in _blocks(model, rows, name):
                out.write(block.view(np.uint8).data)


def _blocks(model: ModelConfig, rows: Rows, name: str) -> Iterator[npt.NDArray[Any]]:
    shape = model.tensor_shapes()[name]
    step = max(1, _BLOCK // math.prod(shape[1:]))
    for start in range(0, shape[0], step):
        yield rows(name, start, min(start + step, shape[0]))


def _write_bin(file: Path, model: ModelConfig, rows: Rows, names: list[str]) -> None:
    import torch

    tensors: dict[str, torch.Tensor] = {}
    for name in names:
        found = rows(name)
        bits = torch.from_numpy(found.view(f"i{found.itemsize}"))
        tensors[name] = bits.view(getattr(torch, found.dtype.name))
    torch.save(tensors, file)


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")
