"""What a calibration is to do, and all that its results depend on. Knows no file and no cache."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from arkinfer.compiler.cache import arithmetic, code_of
from arkinfer.compiler.calibration.text import Sequences
from arkinfer.errors import CheckpointError
from arkinfer.frontend.leaves import Tensors
from arkinfer.models.config import ModelConfig
from arkinfer.packing import Scheme
from arkinfer.quant.method import Method
from arkinfer.quant.scales import Float


@dataclass(frozen=True)
class Job:
    """One calibration.

    Attributes:
        config: the model's.
        context: what it is built for; it chooses the LongRoPE table.
        method: how.
        schemes: of every matrix to quantize, by its name in the checkpoint.
        embedding: how the embedding will be written; None: as it is.
        sequences: what the model reads.
    """

    config: ModelConfig
    context: int
    method: Method
    schemes: dict[str, Scheme]
    embedding: Scheme | None
    sequences: Sequences

    def schemes_of(self, block: int) -> dict[str, Scheme]:
        """Of one block, by the names within it."""
        prefix = prefix_of(block)
        own = {n: scheme for n, scheme in self.schemes.items() if n.startswith(prefix)}
        return {name.removeprefix(prefix): scheme for name, scheme in own.items()}

    def digest(self) -> str:
        """SHA-256 of what all blocks depend on, weights apart."""
        facts = (
            code_of("quant", "packing", "models", "compiler/calibration"), arithmetic(),
            version("torch"), self.config, self.context, self.method, self.embedding,
            self.sequences.digest,
        )  # fmt: skip
        return hashlib.sha256(repr(facts).encode()).hexdigest()


def prefix_of(block: int) -> str:
    """What the names of a block's tensors begin with."""
    return f"model.layers.{block}."


def read_block(tensors: Tensors, config: ModelConfig, block: int) -> tuple[dict[str, Float], str]:
    """The weights of a block in float32 by their names within it, and the SHA-256 of their bytes.

    Raises:
        CheckpointError: weights are damaged, or not finite.
    """
    prefix, digest = prefix_of(block), hashlib.sha256()
    found: dict[str, Float] = {}
    for name in config.tensor_shapes():
        if not name.startswith(prefix):
            continue
        stored = tensors.read(name)
        digest.update(f"{name} {stored.dtype.name}\n".encode())
        digest.update(np.ascontiguousarray(stored).reshape(-1).view(np.uint8).data)
        wide = stored.astype(np.float32)
        if not np.isfinite(wide).all():
            raise CheckpointError(
                f"{name} holds numbers that are not finite",
                "They cannot be quantized, and the model would answer with garbage",
                "Check the checkpoint: it may be damaged, or its training diverged",
            )
        found[name.removeprefix(prefix)] = wide
    return found, digest.hexdigest()
