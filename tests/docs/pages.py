"""Reads the examples of README and docs; knows what is executed, and how outputs are compared."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

EXECUTED = "<!-- executed by tests/docs -->"
NEEDS_THE_HUB = "<!-- needs the hub -->"

_BLOCK = re.compile(r"(?:^(<!-- .+? -->)\n)?^```(\w+)\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the comment on the line before it."""

    mark: str
    language: str
    text: str


@dataclass(frozen=True)
class Step:
    """A command of a console block, and what the page shows of its output."""

    command: str
    shown: str


def blocks(page: Path) -> list[Block]:
    return [Block(*match) for match in _BLOCK.findall(page.read_text("utf-8"))]


def steps(block: Block) -> list[Step]:
    """The lines that begin with "$ ", each with the lines up to the next one."""
    parts = re.split(r"^\$ ", block.text, flags=re.M)
    assert not parts[0].strip(), "a console block begins with a command"
    pairs = [part.partition("\n") for part in parts[1:]]
    return [Step(command.partition("  #")[0].strip(), shown) for command, _, shown in pairs]


def agrees(shown: str, printed: str) -> bool:
    """Whether an output is what a page shows; "…" stands for anything within a line, and alone
    in a line for any lines. A page that shows nothing agrees with everything.

    >>> agrees("size … MB\\n", "size 7.0 MB\\n"), agrees("size … MB\\n", "size 7.0 GB\\n")
    (True, False)
    """
    if not shown.strip():
        return True
    lines = [
        r"(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".+?") + r"[ \t]*\n"
        for line in shown.rstrip().splitlines()
    ]
    return re.fullmatch("".join(lines), printed.rstrip() + "\n") is not None
