"""The torch module of a checkpoint, with its weights: the yardstick of all other executions.

Imports torch, and holds the whole model in memory: for small checkpoints only.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch

from arkinfer.models.config import ModelConfig
from arkinfer.models.minicpm import CausalLM
from arkinfer.testing.weights import random_rows


class Weights(Protocol):
    """`arkinfer.frontend.checkpoint.Checkpoint` is one."""

    def read(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]: ...


class RandomCheckpoint:
    """What `make_checkpoint(config, seed)` would write, without writing it."""

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        self._config, self._seed = config, seed

    def names(self) -> list[str]:
        return list(self._config.tensor_shapes())

    def shape(self, name: str) -> tuple[int, ...]:
        return self._config.tensor_shapes()[name]

    def dtype(self, name: str) -> np.dtype[Any]:
        return self.read(name, 0, 1).dtype

    def read(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        return random_rows(self._config, self._seed, name, start, stop)


def torch_model(config: ModelConfig, weights: Weights, context: int | None = None) -> CausalLM:
    """The module in float32, ready for inference.

    Args:
        config: the model.
        weights: gives every tensor by its Hugging Face name.
        context: chooses the LongRoPE table; None: the config's maximum.
    """
    with torch.device("meta"):
        model = CausalLM(config, context)
    # The table of angles is no parameter, so that it is made again where there is memory.
    model.model.rotary = type(model.model.rotary)(config, context or config.max_position_embeddings)
    state = {
        name: torch.from_numpy(weights.read(name).astype(np.float32))
        for name in config.tensor_shapes()
    }
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


def torch_step(
    model: CausalLM,
    tokens: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64] | None = None,
    past: list[npt.NDArray[np.float32]] | None = None,
) -> tuple[npt.NDArray[np.float32], list[npt.NDArray[np.float32]]]:
    """One step in numpy's terms.

    Args:
        model: of `torch_model`.
        tokens: [T].
        rows: [R]; None: all.
        past: k0, v0, k1 …, each [S, kv heads, head_dim]; None: an empty cache.

    Returns:
        logits [R, V], and the cache as in `past`, with T more rows.
    """
    config = model.config
    size = (0, config.num_key_value_heads, config.head_dim)
    flat = past or [np.zeros(size, np.float32)] * (2 * config.num_hidden_layers)
    caches = [torch.from_numpy(cache) for cache in flat]
    wanted = np.arange(len(tokens)) if rows is None else rows
    with torch.no_grad():
        logits, present = model(
            torch.from_numpy(tokens),
            torch.from_numpy(wanted),
            list(zip(caches[::2], caches[1::2], strict=True)),
        )
    flat = [cache.numpy() for pair in present for cache in pair]
    return cast("npt.NDArray[np.float32]", logits.numpy()), flat
