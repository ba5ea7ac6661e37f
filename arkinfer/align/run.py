"""Aligns an artifact with its model: every stage in order, up to the first out of tolerance.

Knows no backend by name and no terminal.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy.typing as npt

from arkinfer import ir
from arkinfer.align import stored
from arkinfer.align.against import Side, compare_sides
from arkinfer.align.compare import compare
from arkinfer.align.executed import Executed, Step, observe
from arkinfer.align.options import options_of, prompt_tokens
from arkinfer.align.report import Finding, Report, StageReport
from arkinfer.align.snapshot import Snapshot
from arkinfer.align.steps import Build, first_inputs
from arkinfer.align.tolerance import Tolerance
from arkinfer.align.weights import CheckedWeights
from arkinfer.artifact import Artifact, Section
from arkinfer.compiler.cache import Cache
from arkinfer.compiler.calibration.step import Calibration, calibration_of
from arkinfer.compiler.options import BuildOptions
from arkinfer.compiler.prepare import COPIED, Prepared, prepare
from arkinfer.compiler.progress import silent
from arkinfer.compiler.stages import Stages
from arkinfer.compiler.weights import WeightStore
from arkinfer.errors import UsageError
from arkinfer.ir import Value
from arkinfer.runtime.contract import LoadOptions
from arkinfer.runtime.registry import choose_section, open_section

if TYPE_CHECKING:
    from pathlib import Path

    from arkinfer.frontend.checkpoint import Checkpoint
    from arkinfer.frontend.leaves import Tensors
    from arkinfer.models.config import ModelConfig

Array = npt.NDArray[Any]

OnStage: TypeAlias = "Callable[[str, float], None]"
"""Told what is being done, and how much of it is done, 0 … 1; 0 may also be unknown."""

TOKENS = 32
"""How many are run unless asked otherwise: every position sees others, and it stays cheap."""

FREE = Tolerance(math.inf, math.inf, "for information: what quantization and kernels cost in all")


def align(
    artifact: Artifact,
    checkpoint: Checkpoint,
    *,
    model: str = "",
    backend: str | None = None,
    tokens: int = TOKENS,
    prompt: str | None = None,
    against: tuple[Artifact, str | None] | None = None,
    go_on: bool = False,
    threads: int | None = None,
    calib: Path | None = None,
    on_stage: OnStage = lambda stage, done: None,
) -> Report:
    """Compares every stage from the torch module to the backend's kernels.

    Args:
        artifact: the file.
        checkpoint: what it was built from.
        model: what the user calls the checkpoint.
        backend: whose section; None: the first.
        tokens: how many of the prompt are run.
        prompt: None: a built-in text.
        against: another file, or the same, and whose section of it to compare as well.
        go_on: past the first failure?
        threads: of the backends.
        calib: the text that the file was calibrated on, unless it was the built-in one.
        on_stage: told what is being done.

    Raises:
        UsageError: the artifact has no such section, a number makes no sense, or `calib` is not
            that text.
        ArtifactError: the file is too old, or damaged.
        CheckpointError: the checkpoint is damaged.
        UnsupportedError, DeviceError: the section cannot be observed here.
    """
    section = choose_section(artifact, backend)
    module = stored.module_of(artifact, section)
    other = None if against is None else _other(*against)
    most = min(map(_most, [module] if other is None else [module, other[2]]))
    if not 1 <= tokens <= most:
        raise UsageError(
            f"{tokens} tokens cannot be run at once",
            f"The section was compiled for steps of at most {most}",
            f"Give a number from 1 to {most}",
        )
    ids = prompt_tokens(artifact, prompt, tokens + 1)
    same = same_source(artifact, checkpoint)
    report = Report(model, str(artifact.path), section.backend, tokens, same)
    if same is False:
        report.notes.append(
            f"{artifact.path} was not built from {model or checkpoint.path}: the digests of their "
            "sources differ, so that what follows compares two models."
        )
    run = _Run(ids, report, go_on, threads, on_stage)
    options = options_of(artifact, section, checkpoint, calib)
    with calibration_of(options, checkpoint, Cache.open(), Stages(silent, None)) as calibration:
        run.build(artifact, section, checkpoint, options, calibration)
        if not run.stopped:
            ours = run.execute(artifact, section, module)
            if other is not None and not run.stopped:
                run.against(ours, *other)
    return report


def _other(artifact: Artifact, backend: str | None) -> tuple[Artifact, Section, ir.Module]:
    section = choose_section(artifact, backend)
    return artifact, section, stored.module_of(artifact, section)


def _most(module: ir.Module) -> int:
    """Tokens of one step."""
    return min(cast(int, module.attributes[name]) for name in ("chunk", "context"))


def same_source(artifact: Artifact, checkpoint: Checkpoint) -> bool | None:
    """Was the file built from this checkpoint? None: it does not say from which."""
    source: dict[str, Any] = dict(artifact.manifest.get("source", {}))
    digest = source.get("digest")
    return None if digest is None else digest == checkpoint.source_digest()


@dataclass
class _Run:
    """One alignment under way."""

    tokens: Array
    report: Report
    go_on: bool
    threads: int | None
    on_stage: OnStage
    truth: dict[Value, Array] = field(default_factory=dict[Value, Array])
    """Values of the legalized module, as torch has them."""
    legalized: Snapshot | None = None
    weights: ir.WeightStore | None = None
    """Of the build."""

    def _doing(self, stage: str) -> None:
        self.on_stage(stage, 0.0)

    @property
    def stopped(self) -> bool:
        return not self.go_on and not self.report.aligned

    def build(
        self,
        artifact: Artifact,
        section: Section,
        checkpoint: Checkpoint,
        options: BuildOptions,
        calibration: Calibration | None,
    ) -> None:
        """Torch, the traced graph, each pass, and what the file holds; nothing from a cache, but
        for blocks that a calibrated method quantized."""
        snapshots: list[Snapshot] = []
        prepared = prepare(
            options,
            checkpoint,
            on_stage=self._doing,
            watch=lambda step, module: snapshots.append(Snapshot.of(step, module)),
            calibration=calibration,
        )
        tensors = checkpoint if calibration is None else calibration.tensors
        first = self.tokens[:-1]
        symbols = {"T": len(first), "R": len(first), "S": 0}
        build = Build(first_inputs(snapshots[0], first), symbols)
        self._torch(build, snapshots[0], checkpoint.config, tensors, prepared)
        checked = CheckedWeights({}, WeightStore({}, prepared.leaves))
        for before, after in pairwise(snapshots):
            if self.stopped:
                return
            checked.use(after.weights, WeightStore(after.weights, prepared.leaves))
            name = "" if after.step == COPIED else after.step
            self._stage(name, ("before", "after"), build.step(before, after, checked))
        if not self.stopped:
            self.legalized, self.truth, self.weights = snapshots[-1], build.values, checked
            self._file(artifact, section, prepared, checked)

    def _torch(
        self,
        build: Build,
        traced: Snapshot,
        config: ModelConfig,
        tensors: Tensors,
        prepared: Prepared,
    ) -> None:
        from arkinfer.align.capture import run_torch

        self._doing("running the torch module")
        run = run_torch(config, tensors.read, prepared.context, self.tokens[:-1])
        store = WeightStore(traced.weights, prepared.leaves)
        self._stage("traced", ("torch", "traced"), build.torch(run, traced, store))

    def _file(
        self, artifact: Artifact, section: Section, prepared: Prepared, checked: CheckedWeights
    ) -> None:
        sides = ("build", "file")
        graphs = stored.graphs(artifact, section, prepared)
        self._stage("the file's graphs", sides, graphs, always=True)
        compared = (prepared.module, prepared.lowered[0].module)
        self.report.stages[-1].compared = sum(1 for module in compared for _ in module.nodes())
        if self.stopped:
            return
        self._doing("comparing the file's weights")
        began = time.monotonic()
        compared, found, notes = stored.weights(
            artifact, section, prepared.lowered[0], prepared, checked, first_only=not self.go_on
        )  # fmt: skip
        seconds = time.monotonic() - began
        self.report.stages.append(
            StageReport("the file's weights", sides, compared, found, notes, seconds)
        )

    def execute(self, artifact: Artifact, section: Section, module: ir.Module) -> Side:
        """The backend's kernels against the IR, and against torch."""
        name = section.backend
        side = self._side(name, artifact, section, module)
        doing = f"computing what {name} computed"
        side.executed.compute(side.steps, lambda done: self.on_stage(doing, done))
        found = side.executed.findings(side.steps)
        self._stage(f"backend {name}", ("ir", name), found, always=True)
        same = self.legalized is not None and self.legalized.module == module
        if same and not self.stopped:
            drift = self._drift(side.executed.graph, side.steps[0])
            self._stage("end to end", ("torch", name), drift)
        return side

    def against(self, ours: Side, artifact: Artifact, section: Section, module: ir.Module) -> None:
        """Another executable: its kernels, then each op of ours on its operands."""
        same_file = str(artifact.path) == self.report.artifact
        name = section.backend if same_file else f"{artifact.path}, {section.backend}"
        theirs = self._side(name, artifact, section, module)
        found = theirs.executed.findings(theirs.steps)
        self._stage(f"backend {name}", ("ir", name), found, always=True)
        if not self.stopped:
            apart = compare_sides(ours, theirs)
            self._stage(f"against {name}", ("there", "here"), apart, always=True)

    def _side(self, name: str, artifact: Artifact, section: Section, module: ir.Module) -> Side:
        self._doing(f"running {name}")
        backend, executable = open_section(
            artifact, section.backend, LoadOptions(self.threads, observe=True)
        )
        try:
            chunks = [self.tokens[:-1], self.tokens[-1:]]
            room = executable.max_context >= len(self.tokens)
            steps = observe(executable, backend, chunks if room else chunks[:1])
        finally:
            executable.close()
        graph = Snapshot.of("stored", module)
        executed = Executed(backend, graph, stored.StoredWeights(artifact, self.weights))
        return Side(executed, steps, artifact, section)

    def _drift(self, graph: Snapshot, step: Step) -> Iterator[Finding]:
        """Every value of the backend beside torch's."""
        assert self.legalized is not None
        last = max(1, len(graph.lines) - 1)
        for index, (line, ours) in enumerate(zip(graph.lines, self.legalized.lines, strict=True)):
            for value, twin in zip(line.results, ours.results, strict=True):
                shown = step.shown.get(graph.names[value])
                if shown is not None and shown.dtype.kind == "f":
                    difference = compare(shown, self.truth[twin])
                    yield Finding(line.text, line.op, line.loc, index / last, difference, FREE)

    def _stage(
        self,
        name: str,
        sides: tuple[str, str],
        findings: Iterable[Finding],
        *,
        always: bool = False,
    ) -> None:
        """Takes findings up to the first that is wrong; a stage without any is not listed."""
        if name:
            self._doing(f"comparing {name}")
        stage, began = StageReport(name, sides), time.monotonic()
        for finding in findings:
            self.on_stage(f"comparing {name}", finding.depth)
            stage.compared += 1
            stage.findings.append(finding)
            if finding.wrong and not self.go_on:
                break
        stage.seconds = time.monotonic() - began
        if stage.findings or always:
            self.report.stages.append(stage)
