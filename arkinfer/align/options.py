"""How an artifact was built, read from the artifact, and what to run it on. Knows no stage."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from arkinfer import ir
from arkinfer.align.stored import parsed
from arkinfer.artifact.manifest import kv_scales
from arkinfer.compiler.calibration.text import BUILT_IN, TextOptions, read_text
from arkinfer.compiler.options import Asked, BuildOptions, activations_name
from arkinfer.compiler.prepare import asked_activations, cache_form
from arkinfer.compiler.ternary import take_ternary
from arkinfer.compiler.text_pass import TEXT
from arkinfer.errors import UsageError
from arkinfer.ir import QuantizedType
from arkinfer.ir.types import dtype_name
from arkinfer.packing import Scheme
from arkinfer.runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    from arkinfer.artifact import Artifact, Section
    from arkinfer.frontend.checkpoint import Checkpoint

Array = npt.NDArray[Any]

_USER = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}


def options_of(
    artifact: Artifact, section: Section, checkpoint: Checkpoint, calib: Path | None = None
) -> BuildOptions:
    """What `arkinfer build` was told for this section; the checkpoint is taken as it was then.

    Args:
        artifact: the file.
        section: of it.
        checkpoint: what it was built from.
        calib: the text that a calibrated method looked at, unless it was the built-in one.

    Raises:
        ArtifactError: the file's IR cannot be read.
        UnsupportedError: it was ternary then.
        UsageError: it names a target, backend or scheme that this arkinfer does not know.
    """
    facts = cast("dict[str, Any]", artifact.manifest)
    module = parsed(artifact, "ir.txt")
    stored = checkpoint.dtype("model.embed_tokens.weight")
    dtype = facts.get("dtype")
    quantized = any(isinstance(w.type, QuantizedType) for n in module.nodes() for w in n.weights)
    asked = Asked(
        target=facts["target"]["name"],
        quant=facts.get("quant", "none"),
        backend=section.backend,
        embedding=_embedding(module) if quantized else None,
        dtype=None if dtype == _USER.get(dtype_name(stored)) else dtype,
        context=cast(int, module.attributes["context"]),
        chunk=cast(int, module.attributes["chunk"]),
        kv=facts.get("kv", "fp32"),
        activations=_activations(module),
        requantize=_requantized(module, checkpoint),
        calib=_text(artifact, calib),
    )
    options = BuildOptions.make(asked)
    if _has_stored(module):
        options = take_ternary(options, checkpoint)
    overrides = tuple(_overrides(module, options, checkpoint))
    own = parsed(artifact, section.ir) if section.ir in artifact else None
    return replace(
        options,
        overrides=overrides,
        own_kv={} if own is None else {section.backend: cache_form(own)},
        kv_scales=kv_scales(artifact.manifest),
        needy=frozenset() if own is None else _needy(own),
    )


def _overrides(
    module: ir.Module, options: BuildOptions, checkpoint: Checkpoint
) -> Iterator[tuple[str, Scheme]]:
    """The matrices that are quantized otherwise than the other options say: by a recipe, by
    `overrides`, or raised for gates."""
    config, given = checkpoint.config, checkpoint.schemes()
    settled = options.settled(config, given)
    for weight in module.weights.values():
        leaf = weight.source.inputs[0] if weight.source is not None else ""
        if not isinstance(weight.type, QuantizedType) or leaf not in config.tensor_shapes():
            continue
        inner = leaf.startswith("model.layers.")
        usual = options.quant.linear if inner else options.quant.embedding
        if leaf in settled:
            usual = settled[leaf][1]
        if leaf not in given and weight.type.scheme != usual:
            yield leaf.removesuffix(".weight"), weight.type.scheme


def _text(artifact: Artifact, calib: Path | None) -> TextOptions | None:
    """What a calibrated method looked at; None: nothing, or nothing was calibrated.

    Raises:
        UsageError: it was a file, which is not given, or another one.
    """
    facts = artifact.manifest.get("calibration")
    if facts is None:
        return None
    if facts["text"] == BUILT_IN:
        calib = None
    elif calib is None:
        raise UsageError(
            f'"{artifact.path}" was calibrated on {facts["text"]}',
            "To compare with it, its weights are made again",
            f"Give the text with --calib {facts['text']}",
        )
    elif hashlib.sha256(read_text(calib)).hexdigest() != facts["text_sha256"]:
        raise UsageError(
            f'"{calib}" is not the text that "{artifact.path}" was calibrated on',
            f"That one was called {facts['text']}, and their hashes differ",
            "Give that one",
        )
    return TextOptions(calib, facts["samples"], facts["tokens"], facts["seed"])


def _has_stored(module: ir.Module) -> bool:
    return any(w.source is not None and w.source.rule == "stored" for w in module.weights.values())


def _requantized(module: ir.Module, checkpoint: Checkpoint) -> bool:
    """Whether matrices that the checkpoint has quantized were quantized once more."""
    sources = [weight.source for weight in module.weights.values() if weight.source is not None]
    again = {name for source in sources if source.rule == "rtn" for name in source.inputs}
    return bool(again & checkpoint.schemes().keys())


def _activations(module: ir.Module) -> str | None:
    """What the build was told, which it asks all products for; None: nothing."""
    asked = asked_activations(module)[:1]
    return None if asked in ([], ["any"]) else activations_name(asked[0])


def _needy(module: ir.Module) -> frozenset[str]:
    """The matrices whose products a build found to need more bits."""
    products = [node for node in module.nodes() if node.op == "quant.linear"]
    return frozenset(n.weights[0].name for n in products if n.attributes["activations"] == "i16")


def _embedding(module: ir.Module) -> str:
    for node in module.nodes():
        if node.op in ("nn.embedding", "quant.embedding"):
            (table,) = node.weights
            asked = table.source is not None and table.source.rule != "stored"
            kind = table.type
            return kind.scheme.name if asked and isinstance(kind, QuantizedType) else "none"
    return "none"


def prompt_tokens(artifact: Artifact, text: str | None, count: int) -> Array:
    """The first `count` tokens of a text as the model reads it, int64; a short one is repeated.

    Args:
        artifact: its tokenizer.
        text: None: the text that caches are calibrated on.
        count: at least 1.

    Raises:
        UsageError: the text has no token.
    """
    bos = artifact.manifest["tokens"]["bos"]
    tokenizer = Tokenizer(artifact.read("tokenizer.json"), bos=bos)
    ids = tokenizer.encode(TEXT if text is None else text)
    if not ids:
        raise UsageError("The prompt is empty", fix="Give some words")
    return np.fromiter(islice(cycle(ids), count), np.int64, count)
