"""Blocks that are done, and the activations behind the last one, in the cache. Knows no method.

A block's key follows from all that determines it: the method, the tokens, the embedding, and the
weights of every block up to it. Activations are kept behind the newest block alone: a build that
was killed goes on from there.
"""

from __future__ import annotations

import json
from typing import cast

import numpy as np
import numpy.typing as npt

from arkinfer.compiler.cache import Bytes, Cache, key_of
from arkinfer.compiler.calibration.activations import Activations
from arkinfer.compiler.calibration.quantize_block import QuantizedBlock
from arkinfer.packing import QuantizedTensor, parse_scheme, part_specs

BLOCKS, STATES = "blocks", "states"
"""Kinds of entries."""


def put_block(cache: Cache, key: str, block: QuantizedBlock) -> None:
    """Keeps what a method made of a block."""
    facts = {
        "matrices": [[n, m.scheme.name, list(m.shape)] for n, m in block.matrices.items()],
        "norms": [[name, len(norm)] for name, norm in block.norms.items()],
    }
    head = json.dumps(facts).encode()
    head = head.ljust(-(-len(head) // 8) * 8)
    arrays = [part for matrix in block.matrices.values() for part in matrix.parts().values()]
    arrays += list(block.norms.values())
    chunks: list[Bytes] = [len(head).to_bytes(8, "little"), head]
    chunks += [np.ascontiguousarray(a).reshape(-1).view(np.uint8).data for a in arrays]
    cache.put(key_of(BLOCKS, key), chunks)


def get_block(cache: Cache, key: str) -> QuantizedBlock | None:
    """What `put_block` kept; None: nothing."""
    data = cache.get(key_of(BLOCKS, key))
    if data is None:
        return None
    size = int.from_bytes(data[:8], "little")
    facts = json.loads(data[8 : 8 + size])
    offset = 8 + size
    matrices: dict[str, QuantizedTensor] = {}
    for name, scheme_name, shape in facts["matrices"]:
        scheme = parse_scheme(scheme_name)
        parts: dict[str, npt.NDArray[np.generic]] = {}
        for part, (dtype, dimensions) in part_specs(scheme, (shape[0], shape[1])).items():
            count = int(np.prod(dimensions, dtype=np.int64))
            parts[part] = np.frombuffer(data, dtype, count, offset).reshape(dimensions)
            offset += parts[part].nbytes
        matrices[name] = QuantizedTensor.from_parts(scheme, (shape[0], shape[1]), parts)
    norms: dict[str, npt.NDArray[np.float32]] = {}
    for name, count in facts["norms"]:
        norms[name] = np.frombuffer(data, np.float32, count, offset).copy()
        offset += norms[name].nbytes
    return QuantizedBlock(matrices, norms)


def put_states(cache: Cache, key: str, states: Activations) -> None:
    """Keeps the residual stream behind a block."""
    rows = (states.read(sequence) for sequence in range(states.shape[0]))
    cache.put(key_of(STATES, key), (row.reshape(-1).view(np.uint8).data for row in rows))


def drop_states(cache: Cache, key: str) -> None:
    """Forgets it."""
    cache.drop(key_of(STATES, key))


def get_states(cache: Cache, key: str, states: Activations) -> bool:
    """Reads them back; whether they were there."""
    data = cache.get(key_of(STATES, key))
    if data is None or len(data) != states.nbytes:
        return False
    rows = np.frombuffer(data, np.float32).reshape(states.shape)
    for sequence in range(states.shape[0]):
        states.write(sequence, cast("npt.NDArray[np.float32]", rows[sequence]))
    return True
