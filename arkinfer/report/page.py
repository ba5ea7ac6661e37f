"""One HTML page from blocks, complete in itself: no script, no network, no other file.

Knows no command. Every text is escaped, since names may come from foreign files; a page that would
exceed `LIMIT` shows fewer rows of its long tables and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from jinja2 import Template

LIMIT = 500 << 10
"""The most bytes that a page has."""

_ROWS = 2000  # of a table, to begin with
_CELL = 400  # characters


@dataclass(frozen=True)
class Heading:
    """Begins a section."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Running text; an empty line begins a new paragraph."""

    text: str


@dataclass(frozen=True)
class Verdict:
    """What came out, in a sentence that stands out: "good", "bad" or "plain"."""

    text: str
    tone: Literal["good", "bad", "plain"] = "plain"


@dataclass(frozen=True)
class Facts:
    """Names and their values; None is shown as "not measured"."""

    items: Sequence[tuple[str, object]]


@dataclass(frozen=True)
class Table:
    """Rows of texts; where the window is narrow it scrolls within its own box.

    Attributes:
        header: titles of the columns.
        rows: as many texts each.
        align: "l", "r" or "c" for each column; the last letter holds for all that follow.
        caption: what the table shows; "" for none.
        marked: indices of rows that stand out, e.g. the first one that failed.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str = "l"
    caption: str = ""
    marked: Sequence[int] = ()


@dataclass(frozen=True)
class Figure:
    """A picture, as `line_chart` or `bar_chart` makes it, which is not escaped; its caption is.

    Neighbours stand side by side where there is room.
    """

    svg: str
    caption: str = ""


@dataclass(frozen=True)
class Code:
    """Text that is shown as it is, in a box that scrolls sideways."""

    text: str
    caption: str = ""


Block: TypeAlias = Heading | Paragraph | Verdict | Facts | Table | Figure | Code


def page(title: str, lead: str, blocks: Sequence[Block]) -> str:
    """The page as HTML, at most `LIMIT` bytes unless pictures and texts alone exceed it.

    Args:
        title: the page's title and first heading.
        lead: a sentence or two below it.
        blocks: what follows.
    """
    from arkinfer import __version__

    most = _ROWS
    while True:
        html = _template().render(
            title=title, lead=lead, blocks=_grouped(blocks), most=most,
            version=__version__, cell=_cell, clean=_clean, side=_side,
        )  # fmt: skip
        if most < 10 or len(html.encode("utf-8", "replace")) <= LIMIT:
            return html
        most //= 2


def _grouped(blocks: Sequence[Block]) -> list[tuple[str, object]]:
    """(kind, block), where neighbouring figures are one list."""
    result: list[tuple[str, object]] = []
    run: list[Figure] = []
    for block in blocks:
        if not isinstance(block, Figure):
            run = []
            result.append((type(block).__name__, block))
        elif run:
            run.append(block)
        else:
            run = [block]
            result.append(("Figures", run))
    return result


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(
        (files("arkinfer.report") / "page.html.j2").read_text(encoding="utf-8")
    )


def _cell(value: object) -> str:
    """A value as text: short, and without control characters."""
    text = _clean("not measured" if value is None else str(value))
    return text if len(text) <= _CELL else f"{text[: _CELL - 1]}…"


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def _side(align: str, index: int) -> str:
    """The class of a column: "l", "r" or "c"."""
    return align[min(index, len(align) - 1)] if align else "l"
