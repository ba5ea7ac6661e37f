"""The residual stream of all sequences in front of a block: embedded, taken up where an earlier
build was killed, or computed by the quantized blocks before. Knows no method.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from arkinfer.compiler.cache import Cache
from arkinfer.compiler.calibration.activations import Activations, Shelf
from arkinfer.compiler.calibration.block import Between, Block, Matrix
from arkinfer.compiler.calibration.job import Job, read_block
from arkinfer.compiler.calibration.kept import drop_states, get_states, put_states
from arkinfer.errors import CheckpointError
from arkinfer.frontend.leaves import Tensors
from arkinfer.quant import round_to_nearest

EMBEDDING = "model.embed_tokens.weight"

_ROWS = 4096
"""Rows of the embedding that are in memory at a time."""


class Stream:
    """The activations between blocks.

    Args:
        tensors: with the blocks quantized that are done.
        job: the calibration.
        cache: may have activations of an earlier build.
        shelf: for the activations; nothing is put there before it is needed.
        pool: see `block.side_by_side`.
    """

    def __init__(
        self, tensors: Tensors, job: Job, cache: Cache, shelf: Shelf, pool: ThreadPoolExecutor
    ) -> None:
        self._tensors, self._job, self._cache = tensors, job, cache
        self._shelf, self._pool = shelf, pool
        self._states: Activations | None = None
        self._between: Between | None = None
        self._behind = 0
        self._kept: str | None = None

    @property
    def began(self) -> bool:
        """Whether the stream was needed."""
        return self._states is not None

    def before(self, block: int, keys: Sequence[str]) -> tuple[Activations, Between]:
        """The residual stream in front of a block, which the caller takes through it; and room.

        Args:
            block: its number; blocks are asked for in their order.
            keys: of the blocks before it.
        """
        if self._states is None or self._between is None:
            self._states, self._between = self._place()
            self._behind = self._take_up(self._states, keys[:block])
        while self._behind < block:
            weights, _ = read_block(self._tensors, self._job.config, self._behind)
            self.block(weights, self._states).forward()
            self._behind += 1
        self._behind += 1
        return self._states, self._between

    def block(self, weights: Mapping[str, Matrix], states: Activations) -> Block:
        """A block with these weights, for the stream to go through."""
        return Block(self._job.config, weights, self._job.context, states, self._pool)

    def keep(self, key: str) -> None:
        """Keeps the stream behind the block of that key, instead of what was kept before."""
        if self._states is not None:
            put_states(self._cache, key, self._states)
            self.forget()
            self._kept = key

    def forget(self) -> None:
        """Drops what was kept: all blocks are done."""
        if self._kept is not None:
            drop_states(self._cache, self._kept)
            self._kept = None

    def _place(self) -> tuple[Activations, Between]:
        config, (sequences, tokens) = self._job.config, self._job.sequences.ids.shape
        heads = config.num_attention_heads * config.head_dim
        widths = (config.hidden_size, heads, config.intermediate_size)
        states, mixed, gated = (self._shelf.place((sequences, tokens, w)) for w in widths)
        return states, Between(mixed, gated)

    def _take_up(self, states: Activations, keys: Sequence[str]) -> int:
        """How many blocks the stream has gone through that could be had without computing."""
        for count in range(len(keys), 0, -1):
            if get_states(self._cache, keys[count - 1], states):
                self._kept = keys[count - 1]
                return count
        for sequence, ids in enumerate(self._job.sequences.ids):
            states.write(sequence, self._embedded(ids))
        return 0

    def _embedded(self, ids: npt.NDArray[np.int64]) -> Matrix:
        """The embedding of tokens as the artifact will have it."""
        own, places = np.unique(ids, return_inverse=True)
        rows = embedding_rows(self._tensors, own).astype(np.float32)
        if self._job.embedding is not None:
            rows = round_to_nearest(rows, self._job.embedding).dequantize()
        return rows[places.reshape(-1)] * np.float32(self._job.config.embedding_scale)


def embedding_rows(tensors: Tensors, ids: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Rows of the embedding as they are stored.

    Raises:
        CheckpointError: they hold numbers that are not finite.
    """
    rows = np.concatenate([tensors.read(EMBEDDING, i, i + 1) for i in ids.tolist()])
    if not np.isfinite(rows.astype(np.float32)).all():
        raise CheckpointError(
            f"{EMBEDDING} holds numbers that are not finite",
            "The model would answer with garbage",
            "Check the checkpoint: it may be damaged, or its training diverged",
        )
    return rows


def embedding_digest(tensors: Tensors, job: Job) -> str:
    """SHA-256 of the rows of the embedding that the sequences use."""
    ids = np.unique(job.sequences.ids)
    digest = hashlib.sha256()
    for start in range(0, len(ids), _ROWS):
        rows = embedding_rows(tensors, ids[start : start + _ROWS])
        digest.update(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
