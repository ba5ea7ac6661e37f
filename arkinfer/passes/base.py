"""What a pass is, and how its options are written: `quantize{linear=int4-g128, clip=false}`.

Knows no particular pass.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeVar

from arkinfer.errors import UsageError, nearest
from arkinfer.ir import Module


class Pass(Protocol):
    """A frozen dataclass whose fields are its options. Valid IR in, valid IR out.

    Attributes:
        name: in kebab case: the name of its file.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str: ...

    def run(self, module: Module) -> bool:
        """Rewrites the module in place; says whether it changed. What it left alone on second
        thoughts, it says by `module.remark`.
        """
        ...


P = TypeVar("P", bound=Pass)

_ITEM = re.compile(r"([\w-]+)(?:\{([^{}]*)\})?")


def spec_of(each: Pass) -> str:
    """How to write this pass with these options; defaults are left out."""
    given = [
        f"{field.name}={_text(getattr(each, field.name))}"
        for field in dataclasses.fields(each)
        if getattr(each, field.name) != field.default
    ]
    return each.name + (f"{{{', '.join(given)}}}" if given else "")


def parse_spec(text: str) -> tuple[str, dict[str, str]]:
    """The name and the options of one spec, options still as text.

    >>> parse_spec("quantize{linear=int4-g32, clip=false}")
    ('quantize', {'linear': 'int4-g32', 'clip': 'false'})

    Raises:
        UsageError: the text is no spec.
    """
    match = _ITEM.fullmatch(text.strip())
    options: dict[str, str] = {}
    for part in (match[2] or "").split(",") if match else ():
        key, given, value = (piece.strip() for piece in part.partition("="))
        if given and key and value and key not in options:
            options[key] = value
        elif part.strip():
            match = None
            break
    if match is None:
        raise UsageError(
            f'"{text}" does not name a pass', "", "Write name or name{option=value, option=value}."
        )
    return match[1], options


def split_specs(text: str) -> list[str]:
    """The specs of a list with commas; those within braces do not separate.

    >>> split_specs("a,b{x=1, y=2}")
    ['a', 'b{x=1, y=2}']
    """
    parts = re.split(r",(?![^{]*\})", text)
    return [part.strip() for part in parts if part.strip()]


def make(kind: type[P], name: str, options: Mapping[str, str]) -> P:
    """A pass from its options as text, each converted to the type of its field.

    Raises:
        UsageError: there is no such option, one is missing, or its value does not fit.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in options:
        if key not in fields:
            fix = nearest(key, fields) if fields else "Write it without options."
            raise UsageError(f'The pass {name} has no option "{key}"', "", fix)
    for key, field in fields.items():
        if key not in options and field.default is dataclasses.MISSING:
            raise UsageError(f'The pass {name} needs the option "{key}"', "", f"Add {{{key}=…}}")
    return kind(
        **{key: _value(name, key, str(fields[key].type), text) for key, text in options.items()}
    )


def _value(name: str, key: str, kind: str, text: str) -> Any:
    """Field types are text here: every pass imports annotations from __future__."""
    if text == "none" and "None" in kind:
        return None
    try:
        if kind.startswith("bool"):
            return {"true": True, "false": False}[text]
        return {"int": int, "float": float}.get(kind.split(" ")[0], str)(text)
    except (KeyError, ValueError):
        raise UsageError(
            f'The option "{key}" of the pass {name} cannot be "{text}"', f"It is a {kind}"
        ) from None


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "none" if value is None else str(value)
