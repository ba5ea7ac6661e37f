"""What `--quant` means: the scheme of the linears and that of embedding and head, set apart."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from arkinfer.errors import UsageError, did_you_mean
from arkinfer.packing import Scheme, parse_scheme
from arkinfer.quant.method import METHODS, Method

TERNARY = "ternary"
"""What a checkpoint must be already; nothing makes a matrix ternary but training."""

NAMED = {
    "none": (None, None),
    TERNARY: (None, "int8-g128"),
    "int4": ("int4-g128", "int8-g128"),
    "int8": ("int8-g128", "int8-g128"),
}
"""Name -> (linears, embedding and head). `int4` is data-free and quick; see docs/quantization.md
for the measurements behind it."""

DATA_FREE = "rtn"
"""What `int4-g128` is short for: `int4-rtn-g128`."""

GROUPS = (0, 32, 64, 128)


@dataclass(frozen=True)
class QuantSpec:
    """How a build quantizes.

    Attributes:
        name: as the user wrote it.
        linear: scheme of the linears; None: as the checkpoint has them.
        embedding: scheme of embedding and head; None: as the checkpoint has them.
        clip: search the clipping range that loses least (bits below 8).
        method: how the linears are calibrated; None: they are rounded without any data.
    """

    name: str
    linear: Scheme | None
    embedding: Scheme | None
    clip: bool = True
    method: Method | None = None


def parse_quant(name: str, embedding: str | None = None) -> QuantSpec:
    """Reads the names of `NAMED`, and forms such as `int4-g32`, `int4-g128-asym`, `int8-row`,
    `int4-gptq-g128`, `int4-awq-g32-asym`, `int4-pgptq-g128-actorder`.

    Args:
        name: of the linears' scheme and method; it also decides embedding and head, 8 bits in its
            groups.
        embedding: overrides that: a scheme, `int4` or `int8` for short, or `none`.

    Raises:
        UsageError: an unknown name, or a scheme that no method makes.
    """
    method = None
    if name in NAMED:
        linear, own = (None if part is None else parse_scheme(part) for part in NAMED[name])
    else:
        linear, method = _linears(name)
        own = Scheme(8, linear.group)
    if embedding is not None:
        short, _ = NAMED.get(embedding, (None, None))  # "int4" is the scheme of its linears
        own = None if embedding == "none" else parse_linear(short or embedding)
    return QuantSpec(name, linear, own, method=method)


def _linears(name: str) -> tuple[Scheme, Method | None]:
    """Scheme and method; `-actorder` has GPTQ store the inputs in the order that it takes them."""
    bits, _, rest = name.partition("-")
    chosen, _, form = rest.partition("-")
    permuted = form.removesuffix("-actorder")
    method = METHODS.get(chosen)
    if chosen == DATA_FREE:
        return parse_linear(f"{bits}-{form}", name), None
    if method is None:
        return parse_linear(name), None
    if permuted == form or not method.feedback:
        return parse_linear(f"{bits}-{form}", name), method
    scheme = parse_linear(f"{bits}-{permuted}", name)
    ordered = replace(scheme, act_order=scheme.group != 0)
    return ordered, replace(method, static_groups=False)


def parse_linear(name: str, said: str = "") -> Scheme:
    """The scheme of one matrix that can be made of numbers.

    Args:
        name: of the scheme.
        said: what the user wrote, if that is more.

    Raises:
        UsageError: nothing makes one of that name; the nearest is offered.
    """
    match = re.fullmatch(r"int([48])-(?:g(\d+)|row)(-asym)?", name)
    if match is None or int(match[2] or 0) not in GROUPS:
        said = said or name
        raise UsageError(f'There is no quantization "{said}"', "", _hint(said))
    return parse_scheme(name)


def _hint(said: str) -> str:
    """What was meant, and how names are made: there are too many to list them."""
    known = _known()
    others = (f"{said}-g128", said.removesuffix("-actorder"))
    meant = next((name for name in others if name in known), said)
    near = did_you_mean(meant, known)
    return (
        f"{near}Known: {', '.join(NAMED)}, and schemes such as int4-g128, int4-g32-asym or "
        f"int8-row (groups of 32, 64 or 128), also by a method, as in int4-gptq-g128: "
        f"{', '.join((DATA_FREE, *METHODS))}"
    )


def _known() -> list[str]:
    """Every name, near misses of which are worth a hint."""
    forms = [Scheme(b, g, o).name for b in (4, 8) for g in GROUPS for o in ("none", "zero")]
    methods = [
        form.replace("-", f"-{method}-", 1) for method in (DATA_FREE, *METHODS) for form in forms
    ]
    return [*NAMED, *forms, *methods]
