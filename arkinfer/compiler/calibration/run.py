"""Calibrates a checkpoint block by block: each sees what the quantized ones before it compute.

One block is in memory at a time, with the activations of all sequences, which go to the disk where
they are large. What is done stays in the cache. Knows no method and no file format.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial

from arkinfer.compiler.cache import Cache
from arkinfer.compiler.calibration.activations import Shelf
from arkinfer.compiler.calibration.block import side_by_side
from arkinfer.compiler.calibration.job import Job, prefix_of, read_block
from arkinfer.compiler.calibration.kept import get_block, put_block
from arkinfer.compiler.calibration.overlay import Overlay
from arkinfer.compiler.calibration.quantize_block import QuantizedBlock, parts_of, quantize_block
from arkinfer.compiler.calibration.stream import Stream, embedding_digest
from arkinfer.errors import CheckpointError
from arkinfer.frontend.leaves import Tensors

WORTH_KEEPING = 5.0
"""Seconds that a block takes from which on the activations behind it are kept."""


def calibrate(
    tensors: Tensors,
    job: Job,
    overlay: Overlay,
    cache: Cache,
    *,
    on_part: Callable[[int, int], None] = lambda done, total: None,
    on_first: Callable[[int], None] = lambda block: None,
) -> None:
    """Fills an overlay with quantized matrices and changed norms.

    Args:
        tensors: the checkpoint's.
        job: what to do.
        overlay: over them.
        cache: may have blocks that are done, and the activations behind the last one.
        on_part: told how many of how many parts are done.
        on_first: told the first block that is not in the cache, before work on it begins.

    Raises:
        CheckpointError: weights or activations are not finite; names the tensor or the block.
        ResourceError: the disk is full.
    """
    blocks, each = job.config.num_hidden_layers, parts_of(job.method)
    threads = len(os.sched_getaffinity(0))
    key = f"{job.digest()} {embedding_digest(tensors, job)}"
    keys: list[str] = []
    with side_by_side(threads) as pool, Shelf() as shelf:
        stream = Stream(overlay, job, cache, shelf, pool)
        for index in range(blocks):
            weights, digest = read_block(tensors, job.config, index)
            schemes = job.schemes_of(index)
            facts = f"{key} {digest} {sorted((n, s.name) for n, s in schemes.items())}"
            key = hashlib.sha256(facts.encode()).hexdigest()
            found = get_block(cache, key)
            if found is None:
                if not stream.began:
                    on_first(index)
                began = time.monotonic()
                tell = partial(_tell, on_part, index * each, blocks * each)
                with _named(index):
                    states, between = stream.before(index, keys)
                    block = stream.block(weights, states)
                    found = quantize_block(
                        block, weights, schemes, job.method, between, threads=threads, on_part=tell
                    )
                put_block(cache, key, found)
                if time.monotonic() - began >= WORTH_KEEPING:
                    stream.keep(key)
            on_part((index + 1) * each, blocks * each)
            keys.append(key)
            _take(overlay, index, found)
        stream.forget()


def _tell(on_part: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    on_part(before + done, total)


@contextmanager
def _named(block: int) -> Generator[None, None, None]:
    """Says where it was that a method could not go on."""
    try:
        yield
    except CheckpointError as error:
        where = prefix_of(block).removesuffix(".")
        raise CheckpointError(f"{where}: {error.what}", error.why, error.fix) from None


def _take(overlay: Overlay, index: int, block: QuantizedBlock) -> None:
    for name, matrix in block.matrices.items():
        overlay.put(prefix_of(index) + name, matrix)
    for name, norm in block.norms.items():
        overlay.put_norm(prefix_of(index) + name, norm)
