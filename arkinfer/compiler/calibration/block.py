"""One decoder layer over all sequences, from one of its linears to the next. Knows no method.

Between the inputs of two linears everything is computed once, so that a method may change the
matrices behind it on the way: q, k and v; then o; then gate and up; then down. Sequences are
worked on side by side, each by one thread, and summed in their order: no result depends on how
many threads there are.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from arkinfer.compiler.calibration.activations import BATCH, Activations
from arkinfer.models.config import ModelConfig
from arkinfer.models.minicpm import DecoderLayer, RotaryEmbedding, causal_attend
from arkinfer.quant import Moments

Matrix: TypeAlias = npt.NDArray[np.float32]
Stage: TypeAlias = "tuple[str, ...]"
T = TypeVar("T")

QKV: Stage = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
MIXED: Stage = ("self_attn.o_proj",)
GATE_UP: Stage = ("mlp.gate_proj", "mlp.up_proj")
DOWN: Stage = ("mlp.down_proj",)
STAGES = (QKV, MIXED, GATE_UP, DOWN)
"""Linears that share their inputs, in the order that they are computed in."""


@contextmanager
def side_by_side(threads: int) -> Generator[ThreadPoolExecutor, None, None]:
    """Threads of ours, each with libraries that use no thread beside it.

    With threads of their own, libraries add up in another order for each number of them.
    """
    from threadpoolctl import threadpool_limits

    own = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with (
            threadpool_limits(limits=1),
            ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        ):
            yield pool
    finally:
        torch.set_num_threads(own)


@dataclass(frozen=True)
class Between:
    """What stages keep for the stage after the next.

    Attributes:
        mixed: inputs of o, [sequences, tokens, heads * head_dim].
        gated: inputs of down, [sequences, tokens, intermediate].
    """

    mixed: Activations
    gated: Activations


class Block:
    """A decoder layer, and the activations of all sequences on their way through it.

    Args:
        config: the model's.
        tensors: all weights of the layer by their names within it ("mlp.up_proj.weight"),
            float32; changing one in place changes what is computed after that.
        context: what the model is built for; it chooses the LongRoPE table.
        states: the residual stream, [sequences, tokens, hidden]; the block changes it.
        pool: see `side_by_side`.
    """

    def __init__(
        self,
        config: ModelConfig,
        tensors: Mapping[str, Matrix],
        context: int,
        states: Activations,
        pool: ThreadPoolExecutor,
    ) -> None:
        with torch.device("meta"):
            self._layer = DecoderLayer(config)
        self._layer.requires_grad_(False)
        state = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
        self._layer.load_state_dict(state, assign=True)
        self._cos, self._sin = RotaryEmbedding(config, context)(torch.arange(states.shape[1]))
        self._states, self._pool = states, pool
        self._sequences = range(states.shape[0])

    def forward(self) -> None:
        """Turns the residual stream into the block's output, at once."""
        self._each(self._whole)

    def all_moments(self, skip: int = 0) -> dict[Stage, Moments]:
        """Of the inputs of all stages; the residual stream stays as it is.

        Args:
            skip: positions at the beginning of each sequence that do not count.

        Raises:
            CheckpointError: activations are not finite.
        """
        found: dict[Stage, Moments] = {}
        for inputs in self._batches(self._inputs):
            for stage, rows in zip(STAGES, zip(*inputs, strict=True), strict=True):
                self._add(found, stage, rows, skip)
        return {stage: moments.finish() for stage, moments in found.items()}

    def moments(self, stage: Stage, between: Between, skip: int = 0) -> Moments:
        """Of the inputs of one stage, computed with the matrices as they are now.

        Stages must be asked for in their order, each once, and `finish` after the last.

        Args:
            stage: one of `STAGES`.
            between: keeps what the next stage begins with.
            skip: positions at the beginning of each sequence that do not count.

        Raises:
            CheckpointError: activations are not finite.
            ResourceError: the disk is full.
        """
        inputs = {QKV: self._normed, MIXED: self._mixed, GATE_UP: self._attended, DOWN: self._gated}
        found: dict[Stage, Moments] = {}
        for rows in self._batches(lambda sequence: inputs[stage](sequence, between)):
            self._add(found, stage, rows, skip)
        return found[stage].finish()

    def finish(self, between: Between) -> None:
        """Turns the residual stream into the block's output, after the last stage."""

        def add(sequence: int) -> None:
            out = self._layer.mlp.down_proj(_tensor(between.gated, sequence))
            state = _tensor(self._states, sequence) + out * self._layer.residual_scale
            self._states.write(sequence, state.numpy())

        self._each(add)

    def _whole(self, sequence: int) -> None:
        x = _tensor(self._states, sequence)
        self._states.write(sequence, self._layer(0, x, self._cos, self._sin, causal_attend).numpy())

    def _inputs(self, sequence: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        layer, x = self._layer, _tensor(self._states, sequence)
        normed = layer.input_layernorm(x)
        mixed = layer.self_attn.mix(0, normed, self._cos, self._sin, causal_attend)
        x = x + layer.self_attn.o_proj(mixed) * layer.residual_scale
        second = layer.post_attention_layernorm(x)
        return normed, mixed, second, layer.mlp.gated(second)

    def _normed(self, sequence: int, between: Between) -> Tensor:
        return self._layer.input_layernorm(_tensor(self._states, sequence))

    def _mixed(self, sequence: int, between: Between) -> Tensor:
        normed = self._normed(sequence, between)
        mixed = self._layer.self_attn.mix(0, normed, self._cos, self._sin, causal_attend)
        between.mixed.write(sequence, mixed.numpy())
        return mixed

    def _attended(self, sequence: int, between: Between) -> Tensor:
        out = self._layer.self_attn.o_proj(_tensor(between.mixed, sequence))
        x = _tensor(self._states, sequence) + out * self._layer.residual_scale
        self._states.write(sequence, x.numpy())
        return self._layer.post_attention_layernorm(x)

    def _gated(self, sequence: int, between: Between) -> Tensor:
        x = self._layer.post_attention_layernorm(_tensor(self._states, sequence))
        gated = self._layer.mlp.gated(x)
        between.gated.write(sequence, gated.numpy())
        return gated

    def _each(self, work: Callable[[int], T], sequences: Sequence[int] | None = None) -> list[T]:
        def inferring(sequence: int) -> T:
            with torch.inference_mode():  # it counts for one thread alone
                return work(sequence)

        return list(self._pool.map(inferring, self._sequences if sequences is None else sequences))

    def _batches(self, work: Callable[[int], T]) -> Iterator[list[T]]:
        step = max(1, BATCH // self._states.shape[1])
        for start in range(0, len(self._sequences), step):
            yield self._each(work, self._sequences[start : start + step])

    def _add(
        self, found: dict[Stage, Moments], stage: Stage, rows: Sequence[Tensor], skip: int
    ) -> None:
        x = np.concatenate([each.numpy()[skip:] for each in rows])
        found.setdefault(stage, Moments(x.shape[1])).add(x, self._pool)


def _tensor(kept: Activations, sequence: int) -> Tensor:
    return torch.from_numpy(kept.read(sequence))
