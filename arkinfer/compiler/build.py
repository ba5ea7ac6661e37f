"""From a checkpoint to one .ark file: the driver. Knows no backend by name and no terminal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arkinfer.artifact import ArtifactWriter
from arkinfer.backend.scratch import remove_stale
from arkinfer.compiler.activation_bits import Product
from arkinfer.compiler.by_recipe import gates_by, model_by, options_by
from arkinfer.compiler.cache import Cache
from arkinfer.compiler.calibration.step import calibration_of
from arkinfer.compiler.calibration.text import TextOptions
from arkinfer.compiler.file_size import weight_bytes
from arkinfer.compiler.golden import kept_vectors
from arkinfer.compiler.journal import Journal
from arkinfer.compiler.judge import judge
from arkinfer.compiler.kv_form import with_kv_form
from arkinfer.compiler.layer_sizes import LayerSize, layer_sizes
from arkinfer.compiler.options import Asked, BuildOptions
from arkinfer.compiler.prepare import Prepared, prepare, used_weights
from arkinfer.compiler.progress import OnProgress, silent
from arkinfer.compiler.requantize import sentences
from arkinfer.compiler.resources import check_disk, check_memory, out_of_memory
from arkinfer.compiler.reuse import ReusedWeights
from arkinfer.compiler.stages import Stages
from arkinfer.compiler.stopped import told_if_stopped
from arkinfer.compiler.ternary import take_ternary
from arkinfer.compiler.weights import elements_per_row, nbytes, rows_of
from arkinfer.compiler.writing import write_sections, write_texts
from arkinfer.ir import QuantizedType
from arkinfer.passes.quantize_cache import PREFIX
from arkinfer.quality.gates import Candidate, Gates, search
from arkinfer.quality.report import Quality
from arkinfer.runtime.tokens import generation_facts, token_facts
from arkinfer.verify.golden import ENTRY as GOLDEN

if TYPE_CHECKING:
    from arkinfer.frontend.checkpoint import Checkpoint


_OF_THIS_RUN = ("path", "size", "seconds", "reused", "notes")
"""What a report says that is not in the artifact: equal inputs give equal bytes."""


@dataclass(frozen=True)
class BuildReport:
    """What a build made.

    Attributes:
        path: the artifact.
        size: its bytes.
        model: the checkpoint's name.
        target: what it is for.
        backends: its sections; the first one runs unless another is asked for.
        quant: how linears were quantized, as asked.
        schemes: matrices by scheme ("int4-g32", or the dtype of those that are not quantized).
        parameters: weights of the checkpoint.
        bits_per_weight: stored bits of matrices per weight, scales included.
        context: the longest sequence, in tokens.
        kv: how key-value caches are kept: `fp32`, `bf16`, `fp16` or `int8`; `fp32` where sections
            differ.
        kv_scales: what an int8 cache has scales for, "token" or "channel"; None: it is not int8.
        caches: by backend, how it keeps them; `fp16` on boards whatever `kv` says.
        activations: by backend, what its products with quantized matrices take: `int8`, `fp32`,
            `int8, int16 in 12 of 41` …; empty: nothing is quantized.
        ops: nodes by op.
        placement: by backend and op, how many nodes it runs `fast` and `slow`; none is left over.
        slow: a sentence for everything that takes a slow path.
        requantized: a sentence for each kind of matrix that was quantized once more.
        quality: what quantization costs, as `arkinfer.quality.report` reads it; None: nothing is
            quantized.
        layers: bytes, bits per weight and schemes of each layer's matrices.
        products: by matrix, what rounding its input to 8 bits costs its product, and what it takes
            on backends that have a choice; empty: none had.
        raised: layers that are in 8 bits so that the gates hold.
        calibration: method and text of a calibrated quantization; None: there was none.
        recipe: name and SHA-256 of the recipe; None: there was none.
        tuned: the processor that kernels were tuned on; None: they were not.
        seconds: how long each stage took.
        reused: quantized matrices that came from the cache as a whole.
        notes: sentences about this run: an earlier build that was killed, a cache that is off.
    """

    path: Path
    size: int
    model: str
    target: str
    backends: tuple[str, ...]
    quant: str
    schemes: dict[str, int]
    parameters: int
    bits_per_weight: float
    context: int
    kv: str
    activations: dict[str, str]
    ops: dict[str, int]
    slow: tuple[str, ...]
    caches: dict[str, str] = field(default_factory=dict[str, str])
    placement: dict[str, dict[str, dict[str, int]]] = field(
        default_factory=dict[str, dict[str, dict[str, int]]]
    )
    kv_scales: str | None = None
    quality: dict[str, Any] | None = None
    layers: tuple[LayerSize, ...] = ()
    products: tuple[Product, ...] = ()
    raised: tuple[str, ...] = ()
    calibration: dict[str, str | int] | None = None
    recipe: dict[str, str] | None = None
    tuned: str | None = None
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    requantized: tuple[str, ...] = ()
    reused: int = 0
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {**asdict(self), "path": str(self.path)}


def build(
    model: str | Path | None = None,
    target: str | None = None,
    quant: str | None = None,
    output: str | Path | None = None,
    *,
    backend: str | tuple[str, ...] | None = None,
    embedding: str | None = None,
    dtype: str | None = None,
    context: int | None = None,
    chunk: int | None = None,
    kv: str | None = None,
    activations: str | None = None,
    overrides: Mapping[str, str] | None = None,
    requantize: bool = False,
    gates: Gates | None = None,
    calib: TextOptions | None = None,
    no_cpu: bool = False,
    tune: bool = False,
    recipe: str | Path | None = None,
    offline: bool = False,
    confirm: Callable[[str, int], bool] | None = None,
    dump_ir: str | Path | None = None,
    cache: bool = True,
    on_progress: OnProgress = silent,
) -> BuildReport:
    """Builds an artifact.

    Args:
        model: a checkpoint's folder or a hub id; None: the checkpoint in the current folder, else
            the recipe's first model, else the demo model.
        target: a name of `arkinfer.targets`; None: `cpu`.
        quant: `none`, `ternary`, `int8`, `int4`, or a form such as `int4-g128-asym`; see
            `arkinfer.quant.parse_quant`. None: `int4`; `none` where the checkpoint is quantized,
            `ternary` where it is that.
        output: the file to write; None: `<model>-<target>-<quant>.ark` in the current folder.
        backend: whose section to write, or several; None: the target's first, and beside it that
            for the target's own cores, where it has one.
        embedding: scheme of embedding and head, or `none`; None: what `quant` implies.
        dtype: `fp32`, `fp16` or `bf16`: how what is not quantized is stored; None: as it is.
        context: the longest sequence, in tokens; None: what the checkpoint was made for.
        chunk: the most tokens of one step; None: 512.
        kv: `fp32`, `bf16`, `fp16` or `int8`: how the key-value cache is kept; None or `auto`: as
            each backend prefers. int8 takes about a quarter of the memory of fp32, with a
            scale for each head of each token; where a backend knows no such scales, one for each
            channel, calibrated on a small built-in text.
        activations: `int8`, `int16` or `fp32`: what products with quantized matrices take; None:
            what each backend is fastest with, and `int16` where one has it and `int8` is measured
            to lose too much.
        overrides: schemes of matrices by a pattern of their torch module, such as
            `{"model.layers.*.mlp.down_proj": "int8-g32"}`; of several that fit, the last counts.
        requantize: quantize again, to `quant` or else as `arkinfer.quant.replacement` says, the
            matrices that the checkpoint has in a form for which the backend has no fast path.
        gates: limits of what quantization may cost; None: the recipe's. Layers that cost too much
            are quantized to 8 bits, the fewest that do.
        calib: the text that calibrated methods look at; None: 128 sequences of 512 tokens at most,
            out of a small built-in one.
        no_cpu: leave out the section for the target's own cores.
        tune: measure on this machine, which the target is for, how kernels are fastest; the same
            numbers come out of them.
        recipe: a name of `arkinfer.recipes` or a TOML file, whose choices stand wherever an
            argument is None; with a `quant` given, its embedding and overrides fall away, too.
        offline: use no network, only what the hub cache has.
        confirm: asked with the hub id and its bytes before a download; None: never asks.
        dump_ir: a folder for the IR after each pass.
        cache: reuse what earlier builds finished, and keep what this one does; see
            `arkinfer.compiler.cache`. The bytes are the same either way.
        on_progress: told what is being done.

    Raises:
        UsageError: an unknown name or an impossible option.
        DeviceError: a tool that the target takes is missing here; says how to get it.
        CheckpointError: the checkpoint is damaged or incomplete.
        UnsupportedError: the model, or a node of it, has no home on the target.
        ResourceError: the disk is full or may not be written, or there is not enough memory.
        GateError: no way to quantize the model keeps within the gates.
    """
    from arkinfer.frontend.checkpoint import open_checkpoint
    from arkinfer.frontend.hub import resolve

    asked = Asked(
        target, quant, backend, embedding, dtype, context, chunk, kv, activations, overrides,
        requantize, calib, no_cpu, tune,
    )  # fmt: skip
    options = options_by(recipe, asked)
    with out_of_memory(Path(output or model or "demo")):
        options.check_tools()
    remove_stale()
    kept = Cache.open() if cache else Cache(None)
    stages = Stages(on_progress, kept.folder)
    stages.start("opening the checkpoint")
    named = model_by(options, model)
    folder = resolve(named, offline=offline, confirm=confirm)
    if named is None and folder != Path.cwd():
        stages.note("No model was named, and there is none in this folder: this is the demo model.")
    with open_checkpoint(folder) as checkpoint:
        options = take_ternary(options, checkpoint, stages.part, stages.note)
        options = options.for_checkpoint(checkpoint.schemes())
        options = with_kv_form(options, checkpoint.config)
        path = _output(output, checkpoint.name, options)
        with _journal(kept, path) as journal, out_of_memory(path), told_if_stopped(path, kept):
            stages.follow(journal, checkpoint.config.num_parameters)
            extra = options.calibration_bytes(checkpoint.config)
            check_memory(checkpoint.config, path, extra, calibrates_cache=options.calibrates_cache)
            with _Job(options, checkpoint, kept, stages, dump_ir, gates_by(options, gates)) as job:
                report = job.run(path)
    if kept.problem:
        stages.note(kept.problem)
    stages.remember()
    return replace(report, seconds=stages.seconds, notes=tuple(stages.notes))


def _journal(cache: Cache, path: Path) -> Journal:
    return Journal(None if cache.folder is None else cache.folder / "builds", path)


@dataclass(frozen=True)
class _Job:
    """One build, its options checked and its checkpoint open.

    A context manager: what calibrations hold on the disk goes with it.
    """

    options: BuildOptions
    checkpoint: Checkpoint
    cache: Cache
    stages: Stages
    dump_ir: str | Path | None
    gates: Gates
    held: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> _Job:
        return self

    def __exit__(self, *_: object) -> None:
        self.held.close()

    def run(self, path: Path) -> BuildReport:
        stages, checkpoint, cache = self.stages, self.checkpoint, self.cache
        weights = ReusedWeights(cache)
        with ArtifactWriter(path) as artifact:  # first: a wrong place is told at once
            chosen = self.chosen(weights)
            prepared = chosen.made
            size = weight_bytes(prepared)
            check_disk(size, path)
            artifact.expect(size)
            write_texts(artifact, checkpoint, prepared)
            write_sections(artifact, prepared, stages, cache, weights)
            stages.start("computing golden vectors")
            golden = kept_vectors(artifact, checkpoint, prepared, cache, stages.part)
            artifact.add_bytes(GOLDEN, golden)
            quality = chosen.quality or self.judged(prepared, weights, artifact)
            report = _report(path, checkpoint, prepared, quality, chosen.raised)
            facts = {k: v for k, v in report.to_json().items() if k not in _OF_THIS_RUN}
            artifact.add_bytes("report.json", (json.dumps(facts, indent=1) + "\n").encode())
            stages.start("finishing the file")
            artifact.commit(_manifest(checkpoint, prepared))
        stages.stop()
        return replace(report, size=path.stat().st_size, reused=weights.reused)

    def chosen(self, weights: ReusedWeights) -> Candidate[Prepared]:
        """What is built: as asked for, unless that misses the gates."""

        def make(raised: tuple[str, ...]) -> Candidate[Prepared]:
            prepared = self.prepared(raised)
            size = sum(nbytes(weight) for weight in prepared.stored_weights())
            quality = self.judged(prepared, weights) if self.gates else None
            return Candidate(raised, quality, size, prepared)

        return search(self.gates, make, can_raise=self.options.can_raise)

    def prepared(self, raised: tuple[str, ...]) -> Prepared:
        options = self.options.raising(raised)
        calibration = self.held.enter_context(
            calibration_of(options, self.checkpoint, self.cache, self.stages)
        )
        return prepare(
            options, self.checkpoint, cache=self.cache, dump_ir=self.dump_ir,
            on_stage=self.stages.start, on_part=self.stages.part, calibration=calibration,
        )  # fmt: skip

    def judged(
        self, prepared: Prepared, weights: ReusedWeights, artifact: ArtifactWriter | None = None
    ) -> Quality | None:
        self.stages.start("measuring the quality")
        return judge(prepared, self.checkpoint, self.cache, weights, artifact, self.stages.part)


def _output(output: str | Path | None, name: str, options: BuildOptions) -> Path:
    if output is not None:
        return Path(output)
    return Path(f"{name}-{options.target.name}-{options.quant.name}.ark")


def _report(
    path: Path,
    checkpoint: Checkpoint,
    prepared: Prepared,
    quality: Quality | None,
    raised: tuple[str, ...],
) -> BuildReport:
    stored = prepared.stored_weights()
    matrices = [w for w in stored if len(w.type.shape) == 2 and not w.name.startswith(PREFIX)]
    weights = sum(rows_of(w) * elements_per_row(w) for w in matrices)
    schemes: dict[str, int] = {}
    for weight in matrices:
        kind = weight.type
        name = kind.scheme.name if isinstance(kind, QuantizedType) else kind.dtype
        schemes[name] = schemes.get(name, 0) + 1
    options = prepared.options
    return BuildReport(
        path=path,
        size=0,
        model=checkpoint.name,
        target=options.target.name,
        backends=tuple(lowered.compiler.name for lowered in prepared.lowered),
        quant=options.quant.name,
        schemes=dict(sorted(schemes.items())),
        parameters=checkpoint.config.num_parameters,
        bits_per_weight=round(8 * sum(map(nbytes, matrices)) / max(weights, 1), 4),
        context=prepared.context,
        kv=options.kv,
        kv_scales=options.kv_scales,
        caches={e.compiler.name: e.caches(options.target) for e in prepared.lowered},
        activations={e.compiler.name: e.activations for e in prepared.lowered if e.activations},
        ops=prepared.lowered[0].placement.ops,
        placement={e.compiler.name: e.placement.by_op() for e in prepared.lowered},
        slow=tuple(line for each in prepared.lowered for line in each.placement.slow_lines()),
        requantized=sentences(options.again(checkpoint.config, checkpoint.schemes())),
        quality=None if quality is None else quality.to_json(),
        layers=layer_sizes(used_weights([prepared.module]), prepared.module.weights),
        products=prepared.products,
        raised=raised,
        calibration=prepared.calibration or None,
        recipe=None if options.recipe is None else options.recipe.facts(),
        tuned=options.tuned,
    )


def _manifest(checkpoint: Checkpoint, prepared: Prepared) -> dict[str, Any]:
    config, options = checkpoint.config, prepared.options
    tokenizer = checkpoint.tokenizer_json
    return {
        "model": {
            "name": checkpoint.name,
            "architecture": config.architecture,
            "parameters": config.num_parameters,
            "hidden_size": config.hidden_size,
            "num_hidden_layers": config.num_hidden_layers,
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.max_position_embeddings,
        },
        "context": prepared.context,
        "quant": options.quant.name,
        "dtype": prepared.dtype,
        "kv": options.kv,
        **({} if options.kv_scales is None else {"kv_scales": options.kv_scales}),
        **({"calibration": prepared.calibration} if prepared.calibration else {}),
        "target": {"name": options.target.name},
        **({} if options.recipe is None else {"recipe": options.recipe.facts()}),
        **({} if options.tuned is None else {"tuned": options.tuned}),
        "tokens": token_facts(
            checkpoint.raw_config,
            checkpoint.generation,
            checkpoint.tokenizer_config,
            checkpoint.tokenizer_facts,
            checkpoint.chat_template,
        ),
        "generation": generation_facts(checkpoint.generation),
        "source": {
            "files": {"tokenizer.json": hashlib.sha256(tokenizer).hexdigest()},
            "digest": checkpoint.source_digest(),
        },
    }
