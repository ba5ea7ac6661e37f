"""Predicts what a build would make and cost, from the config alone. Builds nothing.

Sizes are counted as `file_size.py` does; times and memory are predictions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from arkinfer import ir
from arkinfer.backend import Footprint, Predictor
from arkinfer.compiler.build_seconds import build_seconds
from arkinfer.compiler.by_recipe import model_by, options_by
from arkinfer.compiler.calibration.text import TextOptions
from arkinfer.compiler.decode_rate import DecodeRate, decode_rates
from arkinfer.compiler.file_size import add_section, file_size
from arkinfer.compiler.golden import predicted_bytes
from arkinfer.compiler.kv_form import with_kv_form
from arkinfer.compiler.options import Asked, BuildOptions
from arkinfer.compiler.prepare import (
    Lowered,
    legalized,
    with_caches,
)
from arkinfer.compiler.requantize import sentences
from arkinfer.compiler.resources import build_memory
from arkinfer.compiler.ternary import plan_ternary
from arkinfer.compiler.weights import nbytes
from arkinfer.models.config import ModelConfig
from arkinfer.packing import QuantizedTensor, Scheme
from arkinfer.runtime.footprint import run_bytes
from arkinfer.targets import Published, Target
from arkinfer.verify.golden import ENTRY as GOLDEN

if TYPE_CHECKING:
    from arkinfer.frontend.checkpoint import Checkpoint


@dataclass(frozen=True)
class Plan:
    """What a build would make; every number but `artifact_bytes` and `kv_bytes` is predicted.

    Attributes:
        model: the checkpoint's name.
        target: what it would be for.
        backend: whose section runs first.
        quant: as asked.
        parameters: weights of the checkpoint.
        context: the longest sequence, in tokens.
        kv: how the first backend keeps the key-value cache.
        kv_scales: what an int8 cache has scales for, "token" or "channel"; None: it is not int8.
        activations: what the first backend's products with quantized matrices would take; None:
            nothing is quantized.
        measures_bits: whether the build gives those of them int16 that lose too much with int8.
        artifact_bytes: size of the file.
        weight_bytes: of it, what the first backend loads.
        kv_bytes: key-value cache at the full context, as the first backend keeps it.
        kv_bytes_per_token: of one token.
        run_bytes: resident memory of a run at the full context.
        build_bytes: resident memory of the build.
        build_seconds: of the build on this machine.
        largest_context: tokens that the target's memory holds, at most what the model reaches.
        memory: the target's memory, in bytes.
        decode: at some depths, if memory bandwidth were all; nothing: it is not known.
        engine_bytes: of what the target makes of the file before it runs it; 0: it makes nothing.
        prepare_bytes: memory that making it takes there.
        published: what others measured on the target.
        placement: by backend and op, how many nodes it would run `fast` and `slow`.
        slow: a sentence for everything that would take a slow path.
        requantized: a sentence for each kind of matrix that would be quantized once more.
        recipe: name and SHA-256 of the recipe; None: there was none.
    """

    model: str
    target: str
    backend: str
    quant: str
    parameters: int
    context: int
    kv: str
    kv_scales: str | None
    activations: str | None
    measures_bits: bool
    artifact_bytes: int
    weight_bytes: int
    kv_bytes: int
    kv_bytes_per_token: int
    run_bytes: int
    build_bytes: int
    build_seconds: float
    largest_context: int
    memory: int
    decode: tuple[DecodeRate, ...]
    engine_bytes: int
    prepare_bytes: int
    published: tuple[Published, ...]
    placement: dict[str, dict[str, dict[str, int]]]
    slow: tuple[str, ...]
    requantized: tuple[str, ...] = ()
    recipe: dict[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {**asdict(self), "published": [each.model_dump() for each in self.published]}


def plan(
    model: str | Path | None = None,
    target: str | None = None,
    quant: str | None = None,
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
    calib: TextOptions | None = None,
    no_cpu: bool = False,
    recipe: str | Path | None = None,
    offline: bool = False,
) -> Plan:
    """Predicts a build; takes what `arkinfer.build` takes. Weights need not be there.

    Raises:
        UsageError: an unknown name or an impossible option.
        CheckpointError: the config is damaged.
        UnsupportedError: the model, or a node of it, has no home on the target.
        DeviceError: a package is missing that sections are counted with.
    """
    from arkinfer.frontend.checkpoint import open_config, stored_schemes
    from arkinfer.frontend.hub import resolve

    asked = Asked(
        target, quant, backend, embedding, dtype, context, chunk, kv, activations, overrides,
        requantize, calib, no_cpu,
    )  # fmt: skip
    options = options_by(recipe, asked)
    folder = resolve(model_by(options, model), offline=offline, weights=False)
    checkpoint = open_config(folder)
    config = checkpoint.config
    schemes = stored_schemes(folder, config)
    options, schemes = plan_ternary(options, folder, config, schemes)
    options = with_kv_form(options.for_checkpoint(schemes), config)
    length = options.context_for(config)
    module = _fused(options, config, length, options.settled(config, schemes))
    lowered = legalized(options, module)
    entries: dict[str, int] = {"ir.txt": len(ir.print_module(module).encode())}
    entries |= _texts(checkpoint)
    entries[GOLDEN] = predicted_bytes(_known_values(lowered), config.vocab_size)
    leaves = _NoLeaves(config, length)
    loaded = [add_section(entries, each, leaves, options) for each in lowered]
    weight_bytes = sum(entries[name] for name in loaded[0])
    memory = options.target.total_memory()
    device = _footprint(lowered[0], options.target, weight_bytes)
    return Plan(
        model=checkpoint.name,
        target=options.target.name,
        backend=options.compilers[0].name,
        quant=options.quant.name,
        parameters=config.num_parameters,
        context=length,
        kv=lowered[0].caches(options.target),
        kv_scales=options.kv_scales,
        activations=lowered[0].activations,
        measures_bits=bool(lowered[0].activations) and options.chooses_bits(options.compilers[0]),
        artifact_bytes=file_size(entries),
        weight_bytes=weight_bytes,
        kv_bytes=device.per_token * length,
        kv_bytes_per_token=device.per_token,
        run_bytes=device.run + device.per_token * length,
        build_bytes=build_memory(
            config, options.calibration_bytes(config), calibrates_cache=options.calibrates_cache
        ),
        build_seconds=round(build_seconds(options, config, module, lowered), 1),
        largest_context=max(
            0,
            min(config.max_position_embeddings, (memory - device.run) // max(device.per_token, 1)),
        ),
        memory=memory,
        decode=decode_rates(options.target.bandwidth, device.per_step, device.per_token, length),
        engine_bytes=device.engine,
        prepare_bytes=device.prepare,
        published=options.target.published,
        placement={each.compiler.name: each.placement.by_op() for each in lowered},
        slow=tuple(line for each in lowered for line in each.placement.slow_lines()),
        requantized=sentences(options.again(config, schemes)),
        recipe=None if options.recipe is None else options.recipe.facts(),
    )


def _fused(
    options: BuildOptions,
    config: ModelConfig,
    context: int,
    settled: Mapping[str, tuple[str, Scheme]],
) -> ir.Module:
    from arkinfer.compiler.options import ACTIVATIONS, DTYPES
    from arkinfer.frontend.dense import dense_module

    own = {"float32": "f32", "float16": "f16"}.get(config.torch_dtype, "bf16")
    stored = own if options.dtype is None else DTYPES[options.dtype]
    module = dense_module(
        config,
        context=context,
        chunk=min(options.chunk, context),
        linear=options.quant.linear,
        embedding=options.quant.embedding,
        dtype=stored,
        declared=settled,
        activations="any" if options.activations is None else ACTIVATIONS[options.activations],
    )
    return with_caches(module, options.kv, options.kv_scales)


def _texts(checkpoint: Checkpoint) -> dict[str, int]:
    """Sizes of the entries that are copied; a tokenizer that is not there yet counts nothing."""
    texts = {"report.json": 4000}
    if checkpoint.has_tokenizer:
        texts["tokenizer.json"] = len(checkpoint.tokenizer_json)
    if checkpoint.chat_template is not None:
        texts["chat_template.jinja"] = len(checkpoint.chat_template.encode())
    return texts


class _NoLeaves:
    """The config's own leaves; compilers may compute tables from them, never read a checkpoint."""

    def __init__(self, config: ModelConfig, context: int) -> None:
        self._frequencies = config.rope.inv_freq(config.head_dim, context)

    def rows(self, name: str, start: int, stop: int) -> np.ndarray[Any, Any]:
        if name == "model.rotary.inv_freq":
            return self._frequencies[start:stop]
        raise FileNotFoundError(f"a plan has no weights, but {name} was asked for")

    def quantized(self, name: str, start: int, stop: int) -> QuantizedTensor:
        raise FileNotFoundError(f"a plan has no weights, but {name} was asked for")


def _footprint(lowered: Lowered, target: Target, loaded: int) -> Footprint:
    """What the backend predicts, else its weights and the caches as they stand in the IR."""
    if isinstance(lowered.compiler, Predictor):
        return lowered.compiler.footprint(lowered.module, target)
    inputs = lowered.module.functions["step"].inputs
    caches = [value.type for value in inputs if isinstance(value.type, ir.CacheType)]
    per_token = sum(
        ir.DTYPES[kind.dtype].itemsize * math.prod(d for d in kind.shape if isinstance(d, int))
        for kind in caches
    )
    products = [w for n in lowered.module.nodes() if n.op.endswith(".linear") for w in n.weights]
    return Footprint(
        run=run_bytes(loaded, 0), per_token=per_token, per_step=sum(map(nbytes, products))
    )


def _known_values(lowered: Sequence[Lowered]) -> int:
    """Values whose fingerprints are kept."""
    ops = ("linear", "embedding", "add", "dense", "rms_norm", "silu_mul")
    nodes = [node for each in lowered for node in each.module.nodes()]
    heads = sum(node.op == "attn.dense" for node in nodes)  # and what they are reshaped to
    return heads + sum(node.op.rpartition(".")[2] in ops for node in nodes)
