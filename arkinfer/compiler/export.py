"""From a checkpoint to a folder or file of another format: the driver. Knows no layout.

What a method makes of the weights is what a build with the same options has, and comes out of the
same cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from arkinfer.compiler.by_recipe import gates_by, model_by, options_by
from arkinfer.compiler.cache import Cache
from arkinfer.compiler.calibration.step import calibration_of
from arkinfer.compiler.calibration.text import TextOptions
from arkinfer.compiler.options import Asked, BuildOptions
from arkinfer.compiler.progress import OnProgress, silent
from arkinfer.compiler.resources import check_memory, out_of_memory
from arkinfer.compiler.stages import Stages
from arkinfer.compiler.stopped import told_if_stopped
from arkinfer.errors import UsageError, nearest
from arkinfer.export import FORMATS, TYPES, Format, Request

if TYPE_CHECKING:
    from arkinfer.compiler.calibration.step import Calibration
    from arkinfer.frontend.checkpoint import Checkpoint

_GATES = (
    "The recipe's gates were not measured. A build measures them; layers that it says it put into "
    "8 bits can be written as overrides of the recipe."
)


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
        calibration: method and text of a calibrated quantization; None: there was none.
        recipe: name and SHA-256 of the recipe; None: there was none.
    """

    path: Path
    size: int
    model: str
    format: str
    schemes: Mapping[str, int]
    notes: tuple[str, ...]
    seconds: float
    calibration: dict[str, str | int] | None = None
    recipe: dict[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {**asdict(self), "path": str(self.path)}


def export(
    model: str | Path | None = None,
    format: str = "gptq",
    output: str | Path | None = None,
    *,
    quant: str | None = None,
    overrides: Mapping[str, str] | None = None,
    requantize: bool = False,
    type: str | None = None,
    calib: TextOptions | None = None,
    recipe: str | Path | None = None,
    offline: bool = False,
    confirm: Callable[[str, int], bool] | None = None,
    cache: bool = True,
    on_progress: OnProgress = silent,
) -> ExportReport:
    """Writes a checkpoint in another format.

    Args:
        model: a checkpoint's folder, a GGUF file or a hub id; None: the checkpoint in the current
            folder, else the recipe's first model, else the demo model.
        format: a name of `arkinfer.export.FORMATS`.
        output: the file or folder to write; None: named after the model, in the current folder.
        quant: how to quantize a checkpoint that is not, as `arkinfer.build` takes it; None: what
            the format suggests. One that is quantized stays as it is.
        overrides: schemes of linears by a pattern of their torch module, as `arkinfer.build`.
        requantize: quantize again what the format cannot hold as it is.
        type: of a format of `arkinfer.export.TYPES`, how to store matrices; None: what suits the
            checkpoint.
        calib: the text that calibrated methods look at, as `arkinfer.build`.
        recipe: a name of `arkinfer.recipes` or a TOML file, whose choices stand where an argument
            is None; of its target and its gates nothing is used.
        offline: use no network, only what the hub cache has.
        confirm: asked with the hub id and its bytes before a download; None: never asks.
        cache: reuse blocks that were calibrated before, by a build or an export, and keep these.
        on_progress: told what is being done.

    Raises:
        UsageError: an unknown name or an impossible option.
        CheckpointError: the checkpoint is damaged or incomplete.
        UnsupportedError: the model, or numbers that the format cannot hold.
        ResourceError: the disk is full or may not be written, or there is not enough memory.
    """
    from arkinfer.frontend.checkpoint import open_checkpoint
    from arkinfer.frontend.hub import resolve

    _check_names(format, type)
    if model is not None and Path(model).suffix == ".ark":
        raise UsageError(
            f"{model} is an artifact, which cannot be exported",
            "Its graph and its weights have been changed for a backend",
            "Export the checkpoint that it was built from, with the same --quant and --calib "
            "options: the cache has what was calibrated",
        )
    begun = time.monotonic()
    asked = Asked(quant=quant, overrides=overrides, requantize=requantize, calib=calib)
    options = options_by(recipe, asked)
    kept = Cache.open() if cache else Cache(None)
    stages = Stages(on_progress, kept.folder)
    stages.start("opening the checkpoint")
    folder = resolve(model_by(options, model), offline=offline, confirm=confirm)
    with open_checkpoint(folder) as checkpoint:
        stages.work = checkpoint.config.num_parameters
        default = f"{checkpoint.name}{'.' if format == 'gguf' else '-'}{format}"
        place = Path(default if output is None else output)
        with (
            told_if_stopped(place, kept),
            out_of_memory(place),
            _calibration(options, checkpoint, kept, stages, place) as made,
        ):
            request = replace(
                _request(options, checkpoint, made, stages),
                output=None if output is None else place, type=type,
            )  # fmt: skip
            tensors = checkpoint if made is None else made.tensors
            writer = cast(Format, import_module(FORMATS[format]))
            written = writer.write(checkpoint, tensors, request)
            facts = None if made is None else made.facts()
        name = checkpoint.name
    if kept.problem:
        stages.note(kept.problem)
    stages.stop()
    stages.remember()
    gates = (_GATES,) if gates_by(options, None) else ()
    return ExportReport(
        written.path, _size(written.path), name, format, dict(written.schemes),
        (*written.notes, *gates), round(time.monotonic() - begun, 3), facts,
        None if options.recipe is None else options.recipe.facts(),
    )  # fmt: skip


def _check_names(format: str, type: str | None) -> None:
    if format not in FORMATS:
        raise UsageError(f'There is no format "{format}" to export', "", nearest(format, FORMATS))
    if type is not None and type not in (types := TYPES.get(format, ())):
        raise UsageError(
            f'There is no type "{type}" of {format}',
            "" if types else "It has no types; --quant says how to quantize",
            nearest(type, types) if types else "Leave --type out, or add --format gguf",
        )


@contextmanager
def _calibration(
    options: BuildOptions, checkpoint: Checkpoint, cache: Cache, stages: Stages, place: Path
) -> Generator[Calibration | None, None, None]:
    """As a build does it; None: the method needs none.

    Raises:
        UsageError: the checkpoint is quantized already; or as `calibration_of`.
        ResourceError: the memory is not there.
    """
    if options.quant.method is None:
        yield None
        return
    options.for_checkpoint(checkpoint.schemes())
    check_memory(checkpoint.config, place, options.calibration_bytes(checkpoint.config))
    with calibration_of(options, checkpoint, cache, stages) as made:
        yield made


def _request(
    options: BuildOptions, checkpoint: Checkpoint, made: Calibration | None, stages: Stages
) -> Request:
    """What options say of the numbers."""

    def fill() -> None:
        if made is not None:
            made.fill()
        stages.start("exporting")

    again, part = options.requantize, stages.part
    if made is not None:
        return Request(calibrated=True, requantize=again, fill=fill, on_part=part)
    alone = replace(options, requantize=False)  # what backends run fast is no matter here
    settled = alone.settled(checkpoint.config, checkpoint.schemes())
    own = {name: scheme for name, (rule, scheme) in settled.items() if rule == "rtn"}
    return Request(
        quant=options.quant_given, overrides=own, requantize=again, fill=fill, on_part=part
    )


def _size(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
