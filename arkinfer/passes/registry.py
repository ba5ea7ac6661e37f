"""Every pass by name; its module is imported when it is asked for. Knows no pass itself."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from arkinfer.errors import UsageError, nearest
from arkinfer.passes.base import Pass, make, parse_spec, split_specs

NAMES = (
    "eliminate-common-subexpressions",
    "eliminate-dead-code",
    "fold-scalars",
    "fuse-add",
    "fuse-attention",
    "fuse-qkv",
    "fuse-rms-norm",
    "fuse-rope",
    "fuse-silu-mul",
    "quantize",
    "quantize-cache",
    "rescale-residual",
    "set-activations",
    "store-cache",
    "store-weights",
    "use-quantized",
)
"""`fuse-rms-norm` is the class FuseRmsNorm of `arkinfer/passes/fuse_rms_norm.py`."""


def pass_class(name: str) -> type[Pass]:
    """The class of a pass.

    Raises:
        UsageError: there is none of that name; offers the nearest.
    """
    if name not in NAMES:
        raise UsageError(f'There is no pass "{name}"', "", nearest(name, NAMES))
    module = import_module(f"arkinfer.passes.{name.replace('-', '_')}")
    return getattr(module, "".join(part.capitalize() for part in name.split("-")))


def pass_named(spec: str, **options: Any) -> Pass:
    """A pass by its spec, or by its name and options as values.

    >>> pass_named("store-weights{dtype=f16}") == pass_named("store-weights", dtype="f16")
    True

    Raises:
        UsageError: an unknown pass or option, or a value that does not fit.
    """
    name, written = parse_spec(spec)
    kind = pass_class(name)
    return kind(**options) if options else make(kind, name, written)


def parse_passes(text: str) -> list[Pass]:
    """The passes of a list like `fuse-rms-norm,quantize{linear=int4-g128}`."""
    return [pass_named(spec) for spec in split_specs(text)]
