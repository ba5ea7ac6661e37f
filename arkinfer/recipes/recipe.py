"""Reads a recipe's TOML file: for which models, on which target, quantized how, held to what.

Knows no checkpoint: whether a model has the matrices that a recipe names is found by the build.
"""

from __future__ import annotations

import hashlib
import sys
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from arkinfer.errors import ResourceError, UsageError, nearest
from arkinfer.quant import parse_quant
from arkinfer.quant.spec import parse_linear
from arkinfer.targets import load_target

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LONGEST = 32 << 10
"""Bytes of a recipe; those that come with arkinfer have 40 lines at most."""

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
_Ratio = Annotated[float, Field(gt=0, le=1e6)]
_Name = Annotated[str, Field(min_length=1, max_length=256)]


class Gates(BaseModel):
    """What an artifact must hold to be written, as in `arkinfer.quality.gates`; None: no limit.

    Attributes:
        max_kl: of the mean divergence from the model as it was, in nats.
        max_ppl_ratio: of the perplexity over that of the model as it was.
        max_size: of the weights, in bytes.
    """

    model_config = _STRICT

    max_kl: _Ratio | None = None
    max_ppl_ratio: _Ratio | None = None
    max_size: Annotated[int, Field(gt=0, le=1 << 60)] | None = None


class Calibration(BaseModel):
    """The text that a calibrated method looks at.

    Attributes:
        samples: the most sequences.
        tokens: the most tokens of each.
        seed: decides where sequences begin.
    """

    model_config = _STRICT

    samples: int = Field(default=128, ge=1, le=1 << 20)
    tokens: int = Field(default=512, ge=16, le=1 << 20)
    seed: int = Field(default=0, ge=0, le=(1 << 63) - 1)


class Recipe(BaseModel):
    """One way to build some models for one target.

    Attributes:
        name: `<name>/<target>` of those that come with arkinfer, else the file's name.
        sha256: of the file, in hex.
        summary: what it is for, in a few words.
        models: hub ids that it is made for; the first one is built where none is named.
        target: a name of `arkinfer.targets`.
        quant: of the linears, as `--quant`.
        embedding: of embedding and head, as `--embedding`; None: what `quant` implies.
        dtype: of what is not quantized, as `--dtype`; None: as the checkpoint.
        context: the longest sequence, in tokens; None: the model's.
        chunk: the most tokens of one prefill step; None: as many as usual.
        kv: of the key-value cache, as `--kv`.
        activations: in products with quantized matrices, as `--activations`; None: what each
            backend is fastest with.
        overrides: schemes of matrices by a pattern of their torch module; the last that fits
            counts.
        requantize: quantize once more what the target has no fast path for, as `--requantize`.
        no_cpu: leave out the section for the target's own cores, as `--no-cpu`.
        calibration: for a calibrated `quant`; None: as usual.
        gates: what the artifact must hold.
    """

    model_config = _STRICT

    name: str
    sha256: str
    summary: _Name
    models: tuple[_Name, ...] = Field(min_length=1, strict=False)
    target: str
    quant: str
    embedding: str | None = None
    dtype: str | None = None
    context: int | None = Field(default=None, ge=1, le=1 << 31)
    chunk: int | None = Field(default=None, ge=1, le=1 << 31)
    kv: str = "fp32"
    activations: str | None = None
    overrides: dict[_Name, str] = Field(default_factory=dict)
    requantize: bool = False
    no_cpu: bool = False
    calibration: Calibration | None = None
    gates: Gates = Gates()

    def facts(self) -> dict[str, str]:
        """What an artifact keeps of it."""
        return {"name": self.name, "sha256": self.sha256}


_OURS = ("name", "sha256")
"""Fields that no file gives."""


def recipe_names() -> list[str]:
    """All recipes that come with arkinfer, sorted."""
    folders = [f for f in resources.files("arkinfer.recipes").iterdir() if f.is_dir()]
    files = [(folder.name, file.name) for folder in folders for file in folder.iterdir()]
    return sorted(f"{a}/{b.removesuffix('.toml')}" for a, b in files if b.endswith(".toml"))


def recipe_text(name: str) -> bytes:
    """The file of a recipe that comes with arkinfer.

    Raises:
        UsageError: there is none of that name; the nearest is offered.
    """
    if name not in (names := recipe_names()):
        raise UsageError(f'There is no recipe "{name}"', "", nearest(name, names))
    return resources.files("arkinfer.recipes").joinpath(f"{name}.toml").read_bytes()


def load_recipe(name: str | Path, target: str | None = None) -> Recipe:
    """The recipe of that name, or in a file that ends with `.toml`.

    Args:
        name: `minicpm4-8b/cpu`, `minicpm4-8b` or a path.
        target: completes a name that has none, by whose recipes it takes; None: `cpu`.

    Raises:
        UsageError: there is no such recipe or file, or it is none.
        ResourceError: the file may not be read.
    """
    text = str(name)
    if not text.endswith(".toml"):
        full = text if "/" in text else f"{text}/{_owner(target or 'cpu')}"
        return parse_recipe(full, recipe_text(full))
    try:
        with open(text, "rb") as stream:
            return parse_recipe(Path(text).stem, stream.read(LONGEST + 1))
    except FileNotFoundError as error:
        raise UsageError(f'There is no file "{text}"', fix="Check the path") from error
    except OSError as error:
        why = error.strerror or str(error)
        raise ResourceError(f'"{text}" cannot be read', why, "Check its permissions") from error


def _owner(target: str) -> str:
    """The target whose recipes another one takes: boards share theirs."""
    return load_target(target).recipes or target


def parse_recipe(name: str, data: bytes) -> Recipe:
    """The recipe that a TOML file describes; every name in it is one that is known.

    Raises:
        UsageError: the file is not TOML, too long or too deep, or not that of a recipe.
    """
    try:
        if len(data) > LONGEST:
            raise ValueError(f"it has more than {LONGEST:,} bytes")
        facts: dict[str, Any] = tomllib.loads(data.decode())
        given = {key: value for key, value in facts.items() if key not in _OURS}
        sha256 = hashlib.sha256(data).hexdigest()
        recipe = Recipe.model_validate({**given, "name": name, "sha256": sha256})
    except ValidationError as error:
        raise _wrong(name, *_first(error)) from error
    except RecursionError as error:
        raise _wrong(name, "it is nested too deeply") from error
    except ValueError as error:  # of UTF-8 and TOML alike
        raise _wrong(name, str(error)) from error
    if other := next((key for key in _OURS if key in facts), None):
        raise _wrong(name, *_unknown([other]))
    try:
        load_target(recipe.target)
        parse_quant(recipe.quant, recipe.embedding)
        for scheme in recipe.overrides.values():
            parse_linear(scheme)
    except UsageError as error:
        raise _wrong(name, error.what[:1].lower() + error.what[1:], error.fix) from error
    return recipe


def _first(error: ValidationError) -> tuple[str, str]:
    """The first thing that is wrong, and what to do about it."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        return _unknown(place)
    said = first["msg"][:1].lower() + first["msg"][1:]
    return f"{'.'.join(place)}: {said}", "Compare it with: arkinfer recipes minicpm4-8b/cpu"


def _unknown(place: list[str]) -> tuple[str, str]:
    parts = {"gates": Gates.model_fields, "calibration": Calibration.model_fields}
    known = parts.get(place[0]) if len(place) > 1 else None
    names = known or [key for key in Recipe.model_fields if key not in _OURS]
    return f'it has no key "{".".join(place)}"', nearest(place[-1], names)


def _wrong(name: str, why: str, fix: str = "Correct the file") -> UsageError:
    return UsageError(f'The recipe "{name}" is wrong', f"Reason: {why}", fix)
