"""What a build does about calibration: what will be replaced, then the numbers, then the facts.

Knows no method and no number.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arkinfer.compiler.cache import Cache
from arkinfer.compiler.calibration.estimate import estimate_note, spilled_bytes
from arkinfer.compiler.calibration.job import Job
from arkinfer.compiler.calibration.linears import norms_of
from arkinfer.compiler.calibration.overlay import Overlay
from arkinfer.compiler.calibration.text import sequences
from arkinfer.errors import ResourceError

if TYPE_CHECKING:
    from arkinfer.compiler.options import BuildOptions
    from arkinfer.compiler.stages import Stages
    from arkinfer.frontend.checkpoint import Checkpoint


@dataclass(frozen=True)
class Calibration:
    """Of one build; an `arkinfer.compiler.prepare.Replaced`.

    Attributes:
        job: what to do.
        tensors: what takes the checkpoint's place.
    """

    job: Job
    tensors: Overlay
    checkpoint: Checkpoint
    cache: Cache
    stages: Stages

    def fill(self) -> None:
        """Computes the numbers, or takes them out of the cache.

        Raises:
            CheckpointError: weights or activations are not finite; names the tensor or the block.
            ResourceError: the disk is full.
        """
        from arkinfer.compiler.calibration.run import calibrate

        job, stages = self.job, self.stages
        _check_disk(spilled_bytes(job.config, *job.sequences.ids.shape))
        stages.start(f"calibrating by {job.method.name}")
        calibrate(
            self.checkpoint, job, self.tensors, self.cache, on_part=stages.part,
            on_first=self._announce,
        )  # fmt: skip

    def facts(self) -> dict[str, str | int]:
        """Method and text, for report and manifest."""
        return {"method": self.job.method.name, **self.job.sequences.facts()}

    def _announce(self, block: int) -> None:
        """Says how long the blocks from this one on will take, where that is long."""
        job = self.job
        samples, tokens = job.sequences.ids.shape
        scheme = next(iter(job.schemes.values()))
        left = 1 - block / job.config.num_hidden_layers
        note = estimate_note(
            job.config, job.method, scheme, samples, tokens, job.sequences.source, left
        )
        if note:
            self.stages.note(note)


@contextmanager
def calibration_of(
    options: BuildOptions, checkpoint: Checkpoint, cache: Cache, stages: Stages
) -> Generator[Calibration | None, None, None]:
    """The calibration that a build needs; None: none. Reads the text, but no weights.

    Raises:
        UsageError: the text cannot be read, or is too short.
        CheckpointError: the tokenizer is missing, or gives ids that the model has not.
        UnsupportedError: a group does not divide the inputs of a linear.
    """
    method, config = options.quant.method, checkpoint.config
    if method is None:
        yield None
        return
    settled = options.settled(config, checkpoint.schemes())
    schemes = {name: scheme for name, (rule, scheme) in settled.items() if rule == "stored"}
    job = Job(
        config, options.context_for(config), method, schemes, options.quant.embedding,
        sequences(options.text, checkpoint),
    )  # fmt: skip
    with Overlay(checkpoint, schemes, norms_of(config) if method.smooth else ()) as overlay:
        yield Calibration(job, overlay, checkpoint, cache, stages)


def _check_disk(needed: int) -> None:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ResourceError(
            f"There is no room for what calibration computes: it takes {needed:,} bytes at most",
            f'"{folder}" has {free:,} bytes free',
            "Free some space there, set TMPDIR to a folder on another disk, or use fewer "
            "sequences (--calib-samples)",
        )
