"""What `--quant` means: the scheme of the linears and that of embedding and head, set apart."""

from __future__ import annotations

import re
from dataclasses import dataclass

from arkinfer.errors import UsageError, nearest
from arkinfer.packing import Scheme, parse_scheme

TERNARY = "ternary"
"""What a checkpoint must be already; nothing makes a matrix ternary but training."""

NAMED = {
    "none": (None, None),
    TERNARY: (None, "int4-g128"),
    "int4": ("int4-g128", "int8-g128"),
    "int8": ("int8-g128", "int8-g128"),
}
"""Name -> (linears, embedding and head). `int4` is data-free and quick; see docs/quantization.md
for the measurements behind it."""

GROUPS = (0, 32, 64, 128)


@dataclass(frozen=True)
class QuantSpec:
    """How a build quantizes.

    Attributes:
        name: as the user wrote it.
        linear: scheme of the linears; None: as the checkpoint has them.
        embedding: scheme of embedding and head; None: as the checkpoint has them.
        clip: search the clipping range that loses least (bits below 8).
    """

    name: str
    linear: Scheme | None
    embedding: Scheme | None
    clip: bool = True


def parse_quant(name: str, embedding: str | None = None) -> QuantSpec:
    """Reads the names of `NAMED`, and forms such as `int4-g32`, `int4-g128-asym`, `int8-row`.

    Args:
        name: of the linears' scheme; it also decides embedding and head, 8 bits in its groups.
        embedding: overrides that: a scheme, or `none`.

    Raises:
        UsageError: an unknown name, or a scheme that round-to-nearest does not make.
    """
    if name in NAMED:
        linear, own = (None if part is None else parse_scheme(part) for part in NAMED[name])
    else:
        linear = parse_linear(name)
        own = Scheme(8, linear.group)
    if embedding is not None:
        own = None if embedding == "none" else parse_linear(embedding)
    return QuantSpec(name, linear, own)


def parse_linear(name: str) -> Scheme:
    """The scheme of one matrix, as round-to-nearest makes it.

    Raises:
        UsageError: it makes none of that name; the nearest is offered.
    """
    match = re.fullmatch(r"int([48])-(?:g(\d+)|row)(-asym)?", name)
    if match is None or int(match[2] or 0) not in GROUPS:
        known = [
            *NAMED,
            *(Scheme(b, g, o).name for b in (4, 8) for g in GROUPS for o in ("none", "zero")),
        ]
        raise UsageError(f'There is no quantization "{name}"', "", nearest(name, known))
    return parse_scheme(name)
