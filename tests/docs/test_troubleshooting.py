"""docs/troubleshooting.md quotes messages as the source has them, and its index leads to them."""

from __future__ import annotations

import ast
import re

from tests.docs.pages import ROOT, text_of

PAGE = text_of(ROOT / "docs" / "troubleshooting.md")


def literals() -> str:
    """All texts of the source, one a line; values in f-strings are "…"."""
    found: list[str] = []
    for folder in ("arkinfer", "backends"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [p.value if isinstance(p, ast.Constant) else "…" for p in node.values]
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(found)


def test_the_messages_are_ours():
    """Each heading that quotes is an error's text as the source has it, "…" for what varies."""
    quoted = re.findall(r"^### `(.+)`$", PAGE, re.M)
    assert len(quoted) >= 15
    source = literals()
    assert [text for text in quoted if text not in source] == []


def test_the_index_leads_to_every_section_and_quotes_what_is_printed():
    index, rest = PAGE.split("\n## A name is wrong\n")
    rows = re.findall(r"^\| \[(.+)\]\(#([\w-]+)\) \| .+ \|$", index, re.M)
    headings = ["A name is wrong", *re.findall(r"^### (.+)$", rest, re.M)]
    plain = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings)
    assert list(dict.fromkeys(target for _, target in rows)) == [
        re.sub(r"[-\s]+", "-", words) for words in plain
    ]
    quoted = [words for cell, _ in rows for words in re.findall(r"^`(.+)`$", cell)]
    assert len(quoted) >= 20
    source = literals()
    assert [words for words in quoted if words not in source] == []
