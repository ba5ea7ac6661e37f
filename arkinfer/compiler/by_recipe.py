"""What a user asked of a build, completed by a recipe. Knows no checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from arkinfer.compiler.calibration.text import TextOptions
from arkinfer.compiler.options import BuildOptions
from arkinfer.quality.gates import Gates
from arkinfer.recipes import load_recipe

T = TypeVar("T")


def options_by(
    recipe: str | Path | None,
    *,
    target: str | None = None,
    quant: str | None = None,
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
) -> BuildOptions:
    """The checked options; what is None is the recipe's, and what that leaves open is usual.

    The recipe's embedding, overrides and calibration go with its `quant`: another one stands alone.

    Raises:
        UsageError: an unknown name or an impossible option, also in the recipe.
        ResourceError: the recipe's file may not be read.
    """
    own = None if recipe is None else load_recipe(recipe, target)
    if own is not None:
        if quant is None:
            quant = own.quant
            embedding = _first(embedding, own.embedding)
            overrides = _first(overrides, own.overrides)
            if calib is None and own.calibration is not None:
                calib = TextOptions(**own.calibration.model_dump())
        target, dtype, kv = _first(target, own.target), _first(dtype, own.dtype), _first(kv, own.kv)
        activations = _first(activations, own.activations)
        context, chunk = _first(context, own.context), _first(chunk, own.chunk)
        requantize = requantize or own.requantize
    options = BuildOptions.make(
        target=target, quant=quant, backend=backend, embedding=embedding, dtype=dtype,
        context=context, chunk=chunk, kv=kv, activations=activations, overrides=overrides,
        requantize=requantize, text=calib,
    )  # fmt: skip
    return replace(options, recipe=own)


def model_by(options: BuildOptions, given: str | Path | None) -> str | None:
    """What was given, else the checkpoint in the current folder, else the recipe's first model."""
    if given is None and options.recipe is not None and not Path("config.json").is_file():
        return options.recipe.models[0]
    return None if given is None else str(given)


def gates_by(options: BuildOptions, given: Gates | None) -> Gates:
    """The gates that were given, else the recipe's, else none."""
    if given is None and options.recipe is not None:
        return Gates(**options.recipe.gates.model_dump())
    return given or Gates()


def _first(given: T | None, other: T | None) -> T | None:
    return other if given is None else given
