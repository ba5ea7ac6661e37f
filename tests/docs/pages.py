"""Reads README and docs: their blocks, what is executed of them, and how outputs are compared."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

COMMANDS = ("console", "python", "sh")
"""Languages of what a reader runs; a block in one of them is executed here unless it is marked."""

OTHERS = ("", "c", "json", "text", "toml", "yaml")
"""Those of what is read only, or saved in a file."""

NEEDS = ("<!-- needs the hub -->", "<!-- needs a board -->")
"""Marks of what cannot be executed here."""

_SOURCE = re.compile(r"<!-- (?:from|executed by) ((?!tests/docs\b)\S+) -->")
_BLOCK = re.compile(
    r"(?:^(<!-- [^\n]+? -->)\n)?^```(\w*)(?: title=\"([\w./-]+)\")?\n(.*?)^```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """A fenced block: the comment on the line before it, its language, its text, and the file
    that its reader saves it in ("": none)."""

    mark: str
    language: str
    text: str
    file: str = ""

    @property
    def source(self) -> str:
        """The file that the block is an excerpt of, or the test that executes it; "": neither."""
        match = _SOURCE.fullmatch(self.mark)
        return match[1] if match else ""

    @property
    def executed(self) -> bool:
        runs = self.language in COMMANDS and not self.file
        return runs and self.mark not in NEEDS and not self.source


@dataclass(frozen=True)
class Step:
    """A command of a console block, and what the page shows of its output."""

    command: str
    shown: str

    @property
    def sets_up(self) -> bool:
        """Whether it prepares the reader's machine, which this one is already: `.ci/run` calls
        make, and tests/packaging installs the wheel. A package of the page itself is installed."""
        words = ("make ", "pip ", "python3 -m venv ", "source ", "cd ")
        return self.command.startswith(words) and not self.command.startswith("pip install ./")

    @property
    def fails(self) -> bool:
        return re.search(r"^error: ", self.shown, re.M) is not None


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    return page.read_text("utf-8")


def blocks(page: Path) -> list[Block]:
    found = _BLOCK.findall(text_of(page))
    return [Block(mark, language, text, file) for mark, language, file, text in found]


def steps(block: Block) -> list[Step]:
    """The lines that begin with "$ ", each with the lines up to the next one."""
    parts = re.split(r"^\$ ", block.text.replace("\\\n", ""), flags=re.M)
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
