"""What a user asked of a build, completed by a recipe. Knows no checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from arkinfer.compiler.calibration.text import TextOptions
from arkinfer.compiler.options import Asked, BuildOptions
from arkinfer.quality.gates import Gates
from arkinfer.recipes import Recipe, load_recipe

T = TypeVar("T")


def options_by(recipe: str | Path | None, asked: Asked) -> BuildOptions:
    """The checked options; what is None is the recipe's, and what that leaves open is usual.

    Raises:
        UsageError: an unknown name or an impossible option, also in the recipe.
        ResourceError: the recipe's file may not be read.
    """
    own = None if recipe is None else load_recipe(recipe, asked.target)
    whole = asked if own is None else _completed(asked, own)
    return replace(BuildOptions.make(whole), recipe=own)


def _completed(asked: Asked, own: Recipe) -> Asked:
    """The recipe's embedding, overrides and calibration go with its `quant`: another one stands
    alone."""
    if asked.quant is None:
        calib = asked.calib
        if calib is None and own.calibration is not None:
            calib = TextOptions(**own.calibration.model_dump())
        asked = replace(
            asked,
            quant=own.quant,
            embedding=_first(asked.embedding, own.embedding),
            overrides=_first(asked.overrides, own.overrides),
            calib=calib,
        )
    names = ("target", "dtype", "context", "chunk", "kv", "activations")
    rest = {name: _first(getattr(asked, name), getattr(own, name)) for name in names}
    both = {name: getattr(asked, name) or getattr(own, name) for name in ("requantize", "no_cpu")}
    return replace(asked, **rest, **both)


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
