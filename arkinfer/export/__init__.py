"""Checkpoints in the formats of others, for others to run: what each format is given and gives.

Knows no layout, no artifact, and not how weights are calibrated; `arkinfer.compiler.export` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from arkinfer.packing import Scheme

if TYPE_CHECKING:
    from arkinfer.frontend.checkpoint import Checkpoint
    from arkinfer.frontend.leaves import Tensors

FORMATS = {
    "gptq": "arkinfer.export.gptq",
    "compressed-tensors": "arkinfer.export.compressed_tensors",
    "gguf": "arkinfer.export.gguf",
}
"""What a user calls a format -> the module whose function `write` writes it."""

TYPES = {"gguf": ("f16", "q8_0", "q4_0", "tq2_0")}
"""Formats that store matrices in one of several types -> what a user calls these."""

OnPart = Callable[[int, int], None]
"""Told how many of how many tensors are written."""


@dataclass(frozen=True)
class Request:
    """What to write.

    Attributes:
        output: the file or folder; None: a name that follows from the model, here.
        quant: as the user wrote it, of what is rounded on the way; what it can be is the format's
            affair. None: as the tensors are, else what the format suggests.
        overrides: linears that are rounded otherwise than `quant` says, by name.
        calibrated: the schemes of the tensors are the user's choice, not the checkpoint's.
        requantize: quantize again what the format cannot hold as it is.
        type: how to store matrices, of `TYPES`; None: what suits the checkpoint.
        fill: makes the tensors' numbers; called once, when all that can be refused is, and before
            the first is read.
        on_part: shown progress.
    """

    output: Path | None = None
    quant: str | None = None
    overrides: Mapping[str, Scheme] = field(default_factory=dict[str, Scheme])
    calibrated: bool = False
    requantize: bool = False
    type: str | None = None
    fill: Callable[[], None] = field(default=lambda: None)
    on_part: OnPart = field(default=lambda done, total: None)


@dataclass(frozen=True)
class Written:
    """What a format wrote.

    Attributes:
        path: the file or folder.
        schemes: matrices by how they are stored.
        notes: what differs from the checkpoint beyond that, in sentences.
    """

    path: Path
    schemes: Mapping[str, int]
    notes: tuple[str, ...] = ()


class Format(Protocol):
    """The module of a format."""

    def write(self, checkpoint: Checkpoint, tensors: Tensors, request: Request) -> Written:
        """Writes a checkpoint whole, or nothing.

        Args:
            checkpoint: gives all but the weights.
            tensors: the checkpoint, or what a method makes of it.
            request: what is wanted.

        Raises:
            UsageError: a quantization that the format has not, or a place that cannot be written.
            UnsupportedError: numbers that the format cannot hold.
            CheckpointError: the checkpoint is damaged.
            ResourceError: the disk is full, or the place may not be written.
        """
        ...
