"""What a build decides before it writes: options checked, the model traced, fused, quantized,
and made legal for each backend. Knows no file format and no backend by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from arkinfer import ir
from arkinfer.backend import Compiler, compiler
from arkinfer.backend.placement import Placement, place
from arkinfer.compiler.cache import Cache
from arkinfer.compiler.requantize import Again, requantized
from arkinfer.compiler.weights import Leaves
from arkinfer.errors import UsageError, nearest
from arkinfer.ir.types import dtype_name
from arkinfer.models.config import ModelConfig
from arkinfer.packing import Scheme
from arkinfer.quant import QuantSpec, parse_quant
from arkinfer.quant.spec import parse_linear
from arkinfer.targets import Target, load_target

if TYPE_CHECKING:
    import numpy as np

    from arkinfer.frontend.checkpoint import Checkpoint
    from arkinfer.passes import Pass

DTYPES = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
"""What a user calls a dtype -> what the IR calls it."""

CACHES = {"fp32": "f32", "int8": "i8"}
"""What a user calls a dtype of the key-value cache -> what the IR calls it."""

Watch: TypeAlias = "Callable[[str, ir.Module], None]"
"""Shown the module as it is traced, copied, and after each pass: how `arkinfer.align` follows a
build without a pipeline of its own. The module is changed in place after that."""

TRACED, COPIED = "traced", "copied"
"""What a watcher is told of a module that no pass made; after a pass it is the pass's spec."""

DEFAULT = "int4"
"""How a checkpoint that is not quantized is, unless asked otherwise."""

RAISED_BITS = 8
"""What layers are quantized to that cost too much for the gates of a build."""

CHUNK = 512
"""Tokens of one prefill step, unless asked otherwise."""


@dataclass(frozen=True)
class BuildOptions:
    """The checked form of what a user asked for; see `arkinfer.build`."""

    target: Target
    quant: QuantSpec
    compilers: tuple[Compiler, ...]
    dtype: str | None
    context: int | None
    chunk: int
    kv: str = "fp32"
    quant_given: str | None = None
    embedding_given: str | None = None
    overrides: tuple[tuple[str, Scheme], ...] = ()
    """Matrices by a pattern of their torch module, and what they are quantized to in place of
    what `quant` says; of several that fit, the last counts."""
    requantize: bool = False
    """Quantize again what the checkpoint has in a form without a fast path."""

    @classmethod
    def make(
        cls,
        target: str,
        quant: str | None,
        backend: str | tuple[str, ...] | None,
        embedding: str | None,
        dtype: str | None,
        context: int | None,
        chunk: int | None,
        kv: str = "fp32",
        overrides: Mapping[str, str] | None = None,
        requantize: bool = False,
    ) -> BuildOptions:
        """Checks every name; the nearest known one is offered.

        Raises:
            UsageError: an unknown target, quantization, backend, dtype or kind of cache, or a bad
                number.
        """
        machine = load_target(target)
        spec = parse_quant(quant or DEFAULT, embedding)
        names = (backend,) if isinstance(backend, str) else backend or machine.backends[:1]
        if len(set(names)) != len(names):
            raise UsageError(
                f"A backend is named twice: {', '.join(names)}", fix="Name each one once"
            )
        if dtype is not None and dtype not in DTYPES:
            raise UsageError(f'There is no dtype "{dtype}"', "", nearest(dtype, DTYPES))
        if kv not in CACHES:
            raise UsageError(f'There is no key-value cache in "{kv}"', "", nearest(kv, CACHES))
        for what, number in (("context", context), ("chunk", chunk)):
            if number is not None and number < 1:
                raise UsageError(f"The {what} cannot be {number} tokens", "", "Give at least 1")
        compilers = tuple(compiler(name) for name in names)
        own = tuple((pattern, parse_linear(name)) for pattern, name in (overrides or {}).items())
        return cls(
            machine, spec, compilers, dtype, context, chunk or CHUNK, kv, quant, embedding, own,
            requantize,
        )  # fmt: skip

    def for_checkpoint(self, schemes: Mapping[str, Scheme]) -> BuildOptions:
        """The same for a checkpoint that has these matrices quantized: it stays as it is.

        Raises:
            UsageError: another quantization was asked for.
        """
        if not schemes or self.quant.linear is None:
            return self
        if self.quant_given is not None and self.requantize:
            return self
        if self.quant_given is not None:
            names = ", ".join(sorted({scheme.name for scheme in schemes.values()}))
            raise UsageError(
                f"The checkpoint is quantized already, to {names}",
                "Quantizing it again would add to its errors",
                "Leave --quant out, which takes the weights as they are, or start from the "
                "unquantized checkpoint; with --requantize, --quant says what becomes of matrices "
                "that have no fast path",
            )
        return replace(self, quant=parse_quant("none", self.embedding_given))

    def raising(self, layers: Sequence[str]) -> BuildOptions:
        """The same, with these layers in 8 bits."""
        linear = self.quant.linear
        if not layers or linear is None:
            return self
        raised = replace(linear, bits=RAISED_BITS, act_order=False)
        more = tuple((f"{path}.*", raised) for path in layers)
        return replace(self, overrides=(*self.overrides, *more))

    @property
    def can_raise(self) -> bool:
        """Whether layers can be in more bits than they are."""
        return self.quant.linear is not None and self.quant.linear.bits < RAISED_BITS

    def settled(
        self, config: ModelConfig, schemes: Mapping[str, Scheme]
    ) -> dict[str, tuple[str, Scheme]]:
        """The matrices whose quantized form `quant` has no say in: by name, rule and scheme.

        Args:
            config: the model.
            schemes: what the checkpoint has quantized.

        Raises:
            UsageError: an override fits no matrix, or one that is quantized already.
        """
        found = {name: ("stored", scheme) for name, scheme in schemes.items()}
        found |= {n: ("rtn", each.after) for n, each in self.again(config, schemes).items()}
        matrices = [name for name, shape in config.tensor_shapes().items() if len(shape) == 2]
        for pattern, scheme in self.overrides:
            named = [n for n in matrices if fnmatchcase(n.removesuffix(".weight"), pattern)]
            if not named:
                raise UsageError(
                    f'The override "{pattern}" fits no matrix of the model',
                    "",
                    "Write a torch module with * where names differ, such as "
                    "model.layers.*.mlp.down_proj",
                )
            if fixed := [name for name in named if name in schemes]:
                raise UsageError(
                    f'The override "{pattern}" fits {fixed[0]}, which is quantized already',
                    "",
                    "Leave the override out, or start from the unquantized checkpoint",
                )
            found |= {name: ("rtn", scheme) for name in named}
        return found

    def again(self, config: ModelConfig, schemes: Mapping[str, Scheme]) -> dict[str, Again]:
        """The matrices that are quantized once more; none unless that was asked for."""
        if not self.requantize:
            return {}
        return requantized(config, schemes, self.compilers, self.target, self.quant)

    def context_for(self, config: ModelConfig) -> int:
        """Tokens that the artifact will hold.

        Raises:
            UsageError: more than the model's positions reach.
        """
        context = self.context or config.max_position_embeddings
        if context > config.max_position_embeddings:
            raise UsageError(
                f"The context cannot be {context} tokens",
                f"The checkpoint was made for {config.max_position_embeddings} "
                "(max_position_embeddings in config.json)",
                f"Ask for at most {config.max_position_embeddings}, or give the checkpoint the "
                "longer rope_scaling that its model card publishes",
            )
        return context


@dataclass(frozen=True)
class Lowered:
    """A module that is legal for one backend."""

    compiler: Compiler
    module: ir.Module
    placement: Placement


@dataclass(frozen=True)
class Prepared:
    """All that is decided before the first weight is read.

    Attributes:
        module: fused and quantized, before any backend's legalization.
        lowered: one per section.
        leaves: gives the checkpoint's numbers.
        context: tokens.
        dtype: of what is not quantized, as a user calls it.
        traced: before any pass; golden vectors are computed with it.
        source: gives the numbers of the model as it was, before any method changed them.
        calibration: says what `leaves` depend on beyond the checkpoint; "": nothing.
    """

    options: BuildOptions
    module: ir.Module
    lowered: tuple[Lowered, ...]
    leaves: Leaves
    context: int
    dtype: str
    traced: ir.Module
    source: Leaves
    calibration: str = ""

    def stored_weights(self) -> list[ir.Weight]:
        """The weights that nodes use, each once, over all sections."""
        return used_weights([each.module for each in self.lowered])


def unwatched(step: str, module: ir.Module) -> None:
    """Looks at nothing."""


def used_weights(modules: list[ir.Module]) -> list[ir.Weight]:
    """The weights that nodes of any of these modules use, each once, in order of use."""
    found: dict[str, ir.Weight] = {}
    for module in modules:
        for node in module.nodes():
            for weight in node.weights:
                found.setdefault(weight.name, weight)
    return list(found.values())


def prepare(
    options: BuildOptions,
    checkpoint: Checkpoint,
    *,
    cache: Cache | None = None,
    dump_ir: str | Path | None = None,
    on_stage: Callable[[str], None] = lambda stage: None,
    on_part: Callable[[int, int], None] = lambda done, total: None,
    watch: Watch = unwatched,
) -> Prepared:
    """Traces and compiles the graph; reads no weight, unless to calibrate an int8 cache.

    Args:
        options: checked.
        checkpoint: opened.
        cache: may have the traced graph and the scales of an int8 cache.
        dump_ir: a folder for the IR after each pass.
        on_stage: told what is done next.
        on_part: told how many of how many parts of that are done, where they can be counted.
        watch: shown every state of the module.

    Raises:
        UsageError: the context is longer than the model's positions reach.
        UnsupportedError: a node has no home on the target; names op, torch path and reason.
        CheckpointError: what calibration needs is damaged or missing.
    """
    from arkinfer.compiler.calibrate import calibrated
    from arkinfer.compiler.reuse import traced
    from arkinfer.frontend.leaves import LeafSource
    from arkinfer.passes import standard_pipeline
    from arkinfer.passes.use_quantized import declare

    cache = cache or Cache(None)
    config = checkpoint.config
    context = options.context_for(config)
    on_stage("tracing the model")
    module = traced(config, context, cache)
    leaves = LeafSource(checkpoint, config, context)
    _retype_leaves(module, {name: dtype_name(leaves.dtype(name)) for name in leaves.names()})
    watch(TRACED, module)
    original = ir.parse_module(ir.print_module(module))
    declare(module, options.settled(config, leaves.schemes()))
    on_stage("optimizing the graph")
    folder = None if dump_ir is None else Path(dump_ir)
    store = None if options.dtype is None else DTYPES[options.dtype]
    passes = standard_pipeline(options.quant, store)
    ran = 0

    def watched(step: str, module: ir.Module) -> None:
        nonlocal ran
        ran += 1
        on_part(ran, len(passes))
        watch(step, module)

    _run(module, passes, folder, watched)
    chunk = min(options.chunk, context)
    module.attributes |= {"context": context, "chunk": chunk, "vocab_size": config.vocab_size}
    fused = module
    if options.kv == "int8":
        module = with_int8_caches(fused, folder, watch)
    lowered = tuple(
        legalize(module, each, options.target, folder, watch) for each in options.compilers
    )
    dtype = options.dtype or _user_dtype(leaves.dtype("model.embed_tokens.weight"))
    if options.kv == "int8":
        on_stage("calibrating the cache")
        scaled = calibrated(fused, leaves, checkpoint, cache=cache, on_progress=on_part)
        return Prepared(options, module, lowered, scaled, context, dtype, original, leaves)
    return Prepared(options, module, lowered, leaves, context, dtype, original, leaves)


def with_int8_caches(
    module: ir.Module, dump_dir: Path | None = None, watch: Watch = unwatched
) -> ir.Module:
    """A copy whose caches are int8; their scales are leaves that calibration gives."""
    from arkinfer.passes import pass_named

    own = ir.parse_module(ir.print_module(module))
    watch(COPIED, own)
    folder = None if dump_dir is None else dump_dir / "int8-cache"
    _run(own, [pass_named("quantize-cache")], folder, watch)
    return own


def _run(module: ir.Module, passes: list[Pass], dump_dir: Path | None, watch: Watch) -> None:
    from arkinfer.passes import run_pipeline

    run_pipeline(module, passes, dump_dir=dump_dir, on_pass=lambda run: watch(run.spec, module))


def _retype_leaves(module: ir.Module, dtypes: Mapping[str, str]) -> None:
    """Gives every leaf symbol the dtype that the checkpoint has it in."""
    for name, weight in module.weights.items():
        if weight.source is None and isinstance(weight.type, ir.TensorType):
            kind = ir.TensorType(dtypes[name], weight.type.shape)
            module.weights[name] = replace(weight, type=kind)
    for node in module.nodes():
        node.operands = [
            module.weights[operand.name] if isinstance(operand, ir.Weight) else operand
            for operand in node.operands
        ]


def _user_dtype(dtype: np.dtype[Any]) -> str:
    name = dtype_name(dtype)
    return next((user for user, known in DTYPES.items() if known == name), name)


def legalize(
    module: ir.Module,
    backend: Compiler,
    target: Target,
    dump_dir: Path | None,
    watch: Watch = unwatched,
) -> Lowered:
    """A copy of the module with what the backend wants rewritten, and every node's home."""
    from arkinfer.passes import pass_named

    own = ir.parse_module(ir.print_module(module))
    watch(COPIED, own)
    folder = None if dump_dir is None else dump_dir / backend.name
    _run(own, [pass_named(name) for name in backend.legalizations], folder, watch)
    return Lowered(backend, own, place(own, backend, target))
