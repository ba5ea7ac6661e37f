"""What a build decides before it writes: the model traced, fused, quantized, and made legal for
each backend. Knows no file format and no backend by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from arkinfer import ir
from arkinfer.backend import Compiler, Predictor
from arkinfer.backend.placement import Placement, place
from arkinfer.compiler.cache import Cache
from arkinfer.compiler.options import (
    ACTIVATIONS,
    CACHES,
    DTYPES,
    BuildOptions,
    activations_words,
)
from arkinfer.compiler.weights import Leaves
from arkinfer.errors import UnsupportedError
from arkinfer.ir.types import dtype_name
from arkinfer.targets import Target

if TYPE_CHECKING:
    import numpy as np

    from arkinfer.compiler.activation_bits import Product
    from arkinfer.frontend.checkpoint import Checkpoint
    from arkinfer.frontend.leaves import Tensors
    from arkinfer.passes import Pass

Watch: TypeAlias = "Callable[[str, ir.Module], None]"
"""Shown the module as it is traced, copied, and after each pass: how `arkinfer.align` follows a
build without a pipeline of its own. The module is changed in place after that."""

TRACED, COPIED, CHOSEN = "traced", "copied", "choose-activations"
"""What a watcher is told of a module that no pass made; after a pass it is the pass's spec."""


class Replaced(Protocol):
    """Numbers that take the place of a checkpoint's, and are made when all else is decided."""

    @property
    def tensors(self) -> Tensors: ...
    def fill(self) -> None:
        """Makes the numbers; called once, before the first is read."""
        ...

    def facts(self) -> dict[str, str | int]:
        """What they depend on beyond the checkpoint."""
        ...


@dataclass(frozen=True)
class Lowered:
    """A module that is legal for one backend.

    Attributes:
        activations: what its products with quantized matrices take, as a user calls it, such as
            "int8, int16 in 12 of 41"; None: there are none.
    """

    compiler: Compiler
    module: ir.Module
    placement: Placement

    @property
    def activations(self) -> str | None:
        usual = self.compiler.activations[0]
        kinds = [usual if kind == "any" else kind for kind in asked_activations(self.module)]
        return activations_words(kinds)

    def caches(self, target: Target) -> str:
        """How it keeps key-value caches, as a user calls it."""
        if isinstance(self.compiler, Predictor):
            predicted = self.compiler.footprint(self.module, target).caches
            if predicted:
                return predicted
        return cache_form(self.module)


@dataclass(frozen=True)
class Prepared:
    """All that is decided before the first weight is read.

    Attributes:
        module: fused and quantized, before any backend's legalization.
        lowered: one per section.
        leaves: gives the numbers that the artifact is made of.
        context: tokens.
        dtype: of what is not quantized, as a user calls it.
        traced: before any pass; golden vectors are computed with it.
        source: gives the numbers of the model as it was, before any method changed them.
        calibration: what `leaves` depend on beyond the checkpoint; empty: nothing.
        products: what was measured to choose how many bits of their input they take; empty: there
            was no choice.
    """

    options: BuildOptions
    module: ir.Module
    lowered: tuple[Lowered, ...]
    leaves: Leaves
    context: int
    dtype: str
    traced: ir.Module
    source: Leaves
    calibration: dict[str, str | int] = field(default_factory=dict[str, "str | int"])
    products: tuple[Product, ...] = ()

    def stored_weights(self) -> list[ir.Weight]:
        """The weights that nodes use, each once, over all sections."""
        return used_weights([each.module for each in self.lowered])


def asked_activations(module: ir.Module) -> list[str]:
    """What each product with a quantized matrix is to take, as the IR calls it."""
    products = [node for node in module.nodes() if node.op == "quant.linear"]
    return [str(node.attributes["activations"]) for node in products]


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
    calibration: Replaced | None = None,
) -> Prepared:
    """Traces and compiles the graph; reads no weight, unless to calibrate.

    Args:
        options: checked.
        checkpoint: opened.
        cache: may have the traced graph and the scales of an int8 cache.
        dump_ir: a folder for the IR after each pass.
        on_stage: told what is done next.
        on_part: told how many of how many parts of that are done, where they can be counted.
        watch: shown every state of the module.
        calibration: the numbers, where they are not the checkpoint's.

    Raises:
        UsageError: the context is longer than the model's positions reach.
        UnsupportedError: a node has no home on the target; names op, torch path and reason. Or a
            backend does not keep caches as asked.
        CheckpointError: what calibration needs is damaged or missing.
    """
    from arkinfer.compiler.activation_bits import measured
    from arkinfer.compiler.kv_form import with_kv_form
    from arkinfer.compiler.kv_scales import calibrated
    from arkinfer.compiler.reuse import traced
    from arkinfer.frontend.leaves import LeafSource
    from arkinfer.passes import standard_pipeline
    from arkinfer.passes.use_quantized import declare

    cache = cache or Cache(None)
    config = checkpoint.config
    options = with_kv_form(options, config)
    context = options.context_for(config)
    on_stage("tracing the model")
    module = traced(config, context, cache)
    source = LeafSource(checkpoint, config, context)
    leaves = source
    if calibration is not None:
        leaves = LeafSource(calibration.tensors, config, context)
    _retype_leaves(module, {name: dtype_name(leaves.dtype(name)) for name in leaves.names()})
    watch(TRACED, module)
    original = ir.parse_module(ir.print_module(module))
    declare(module, options.settled(config, checkpoint.schemes()))
    on_stage("optimizing the graph")
    folder = None if dump_ir is None else Path(dump_ir)
    store = None if options.dtype is None else DTYPES[options.dtype]
    activations = None if options.activations is None else ACTIVATIONS[options.activations]
    passes = standard_pipeline(options.quant, store, activations)
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
    module = with_caches(fused, options.kv, options.kv_scales, folder, watch)
    lowered = legalized(options, module, folder, watch)
    dtype = options.dtype or _user_dtype(leaves.dtype("model.embed_tokens.weight"))
    facts: dict[str, str | int] = {}
    if calibration is not None:
        calibration.fill()
        facts = calibration.facts()
    numbers: Leaves = leaves
    if options.calibrates_cache:
        on_stage("calibrating the cache")
        numbers = calibrated(fused, leaves, checkpoint, cache=cache, on_progress=on_part)
    products: tuple[Product, ...] = ()
    if options.measures_bits and asked_activations(fused):
        on_stage("measuring activations")
        products = measured(fused, leaves, checkpoint, facts, cache, on_part)
    _choose_bits(options, lowered, products, watch)
    return Prepared(
        options, module, lowered, numbers, context, dtype, original, source, facts, products
    )


def _choose_bits(
    options: BuildOptions, lowered: Sequence[Lowered], products: Sequence[Product], watch: Watch
) -> None:
    """Asks for more bits where they are known to be needed, or were found to be."""
    from arkinfer.compiler.activation_bits import INT16, set_bits

    needy = options.needy or {each.matrix for each in products if each.activations == INT16}
    for each in lowered:
        if options.chooses_bits(each.compiler) and set_bits(each.module, needy):
            watch(CHOSEN, each.module)


def with_caches(
    module: ir.Module,
    kv: str,
    scales: str | None,
    dump_dir: Path | None = None,
    watch: Watch = unwatched,
) -> ir.Module:
    """A copy whose caches are kept so; the module itself if its are already.

    Args:
        module: its caches are float32, unless they are kept so already.
        kv: as a user calls it.
        scales: of int8 caches; those per channel are leaves that calibration gives.
        dump_dir: gets the IR after the pass.
        watch: shown the copy, and what the pass makes of it.
    """
    from arkinfer.passes import pass_named

    if cache_form(module) == kv:
        return module
    own = ir.parse_module(ir.print_module(module))
    watch(COPIED, own)
    folder = None if dump_dir is None else dump_dir / f"{kv}-cache"
    if kv == "int8":
        change = pass_named("quantize-cache", scales=scales)
    else:
        change = pass_named("store-cache", dtype=CACHES[kv])
    _run(own, [change], folder, watch)
    return own


def cache_form(module: ir.Module) -> str:
    """How the caches of a module are kept, as a user calls it."""
    inputs = module.functions["step"].inputs
    kept = next((v.type.dtype for v in inputs if isinstance(v.type, ir.CacheType)), "f32")
    return next(user for user, known in CACHES.items() if known == kept)


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


def legalized(
    options: BuildOptions,
    module: ir.Module,
    dump_dir: Path | None = None,
    watch: Watch = unwatched,
) -> tuple[Lowered, ...]:
    """The module for each backend, in order.

    Raises:
        UnsupportedError: a node has no home on one of them.
    """
    found: list[Lowered] = []
    for each in options.compilers:
        try:
            kv = options.kv_of(each.name)
            own = with_caches(module, kv, options.kv_scales, dump_dir, watch)
            found.append(legalize(own, each, options.target, dump_dir, watch))
        except UnsupportedError as error:
            if each.name != options.beside:
                raise
            raise UnsupportedError(
                error.what,
                error.why,
                "Leave out the section for the target's own cores with --no-cpu, or choose another "
                "quantization",
            ) from error
    return tuple(found)


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
