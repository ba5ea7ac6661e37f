"""Checkpoints in the formats of others, for others to run. Knows no layout and no artifact."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from arkinfer.errors import UsageError, nearest

if TYPE_CHECKING:
    from arkinfer.frontend.checkpoint import Checkpoint

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
        quant: as the user wrote it; what it can be is the format's affair.
        requantize: quantize again what the format cannot hold as it is.
        type: how to store matrices, of `TYPES`; None: what suits the checkpoint.
        on_part: shown progress.
    """

    output: Path | None = None
    quant: str | None = None
    requantize: bool = False
    type: str | None = None
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

    def write(self, checkpoint: Checkpoint, request: Request) -> Written:
        """Writes a checkpoint whole, or nothing.

        Raises:
            UsageError: a quantization that the format has not, or a place that cannot be written.
            UnsupportedError: numbers that the format cannot hold.
            CheckpointError: the checkpoint is damaged.
            ResourceError: the disk is full, or the place may not be written.
        """
        ...


@dataclass(frozen=True)
class ExportReport:
    """What an export made.

    Attributes:
        path: the file or folder.
        size: its bytes.
        model: the checkpoint's name.
        format: as asked for.
        schemes: matrices by how they are stored.
        notes: what differs from the checkpoint beyond that, in sentences.
        seconds: how long it took.
    """

    path: Path
    size: int
    model: str
    format: str
    schemes: Mapping[str, int]
    notes: tuple[str, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {**asdict(self), "path": str(self.path)}


def export(
    model: str | Path | None = None,
    format: str = "gptq",
    output: str | Path | None = None,
    *,
    quant: str | None = None,
    requantize: bool = False,
    type: str | None = None,
    offline: bool = False,
    confirm: Callable[[str, int], bool] | None = None,
    on_part: OnPart = lambda done, total: None,
) -> ExportReport:
    """Writes a checkpoint in another format.

    Args:
        model: a checkpoint's folder, a GGUF file or a hub id; None: the checkpoint in the current
            folder, else the demo model.
        format: a name of `FORMATS`.
        output: the file or folder to write; None: named after the model, in the current folder.
        quant: how to quantize a checkpoint that is not; None: what the format suggests. One that
            is quantized stays as it is.
        requantize: quantize again what the format cannot hold as it is.
        type: of a format of `TYPES`, how to store matrices; None: what suits the checkpoint.
        offline: use no network, only what the hub cache has.
        confirm: asked with the hub id and its bytes before a download; None: never asks.
        on_part: told how many of how many tensors are written.

    Raises:
        UsageError: an unknown name or an impossible option.
        CheckpointError: the checkpoint is damaged or incomplete.
        UnsupportedError: the model, or numbers that the format cannot hold.
        ResourceError: the disk is full or may not be written.
    """
    from arkinfer.frontend.checkpoint import open_checkpoint
    from arkinfer.frontend.hub import resolve

    if format not in FORMATS:
        raise UsageError(f'There is no format "{format}" to export', "", nearest(format, FORMATS))
    if type is not None and type not in (types := TYPES.get(format, ())):
        raise UsageError(
            f'There is no type "{type}" of {format}',
            "" if types else "It has no types; --quant says how to quantize",
            nearest(type, types) if types else "Leave --type out, or add --format gguf",
        )
    begun = time.monotonic()
    folder = resolve(None if model is None else str(model), offline=offline, confirm=confirm)
    request = Request(None if output is None else Path(output), quant, requantize, type, on_part)
    with open_checkpoint(folder) as checkpoint:
        writer = cast(Format, import_module(FORMATS[format]))
        written = writer.write(checkpoint, request)
        name = checkpoint.name
    seconds = round(time.monotonic() - begun, 3)
    size = _size(written.path)
    return ExportReport(
        written.path, size, name, format, dict(written.schemes), written.notes, seconds
    )


def _size(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
