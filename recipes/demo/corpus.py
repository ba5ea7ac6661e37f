"""Turns the documentation that ships with CPython into clean text. Knows nothing of tokens.

    python recipes/demo/corpus.py SOURCES OUT

SOURCES is the `_sources` folder of the documentation (Debian: package python3.11-doc, licence
PSF-2.0). OUT receives train.jsonl ({"name", "text"} per document), heldout.txt and
corpus.sha256. The same sources give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path

FOLDERS = ("tutorial", "library", "reference", "howto", "faq", "using", "glossary")
HELD_OUT = (
    "library/bisect", "library/calendar", "library/cmd", "library/colorsys", "library/fnmatch",
    "library/ftplib", "library/getpass", "library/graphlib", "library/netrc", "library/sched",
    "library/statistics", "tutorial/floatingpoint",
)  # fmt: skip

_DROPPED = ("index", "module", "moduleauthor", "sectionauthor", "toctree", "testsetup",
            "testcleanup", "currentmodule", "highlight", "only", "include", "literalinclude",
            "image", "figure", "rubric", "tabularcolumns", "role", "default-role", "contents",
            "audit-event", "audit-event-table", "availability", "impl-detail", "miscnews",
            "productionlist", "cssclass", "raw", "hlist", "csv-table")  # fmt: skip
_LABELS = {"note": "Note:", "warning": "Warning:", "seealso": "See also:", "tip": "Tip:",
           "versionadded": "New in version", "versionchanged": "Changed in version",
           "deprecated": "Deprecated since version", "important": "Important:",
           "deprecated-removed": "Deprecated since version", "caution": "Caution:",
           "topic": "", "sidebar": "", "describe": "", "list-table": "", "table": ""}  # fmt: skip
_CALLABLE = ("func", "meth", "c:func")
_DIRECTIVE = re.compile(r"^(\s*)\.\. ([\w:.-]+)::\s*(.*)$")


def _role(match: re.Match[str]) -> str:
    """What a role such as :func:`len` reads as."""
    kind, body = match[1], match[2].strip()
    titled = re.fullmatch(r"(.*?)\s*<[^>]+>", body, re.S)
    if titled:
        return titled[1] if kind in ("ref", "term", "doc") else f"`{titled[1]}`"
    body = body.split(".")[-1] if body.startswith("~") else body.lstrip("!")
    if kind in ("term", "ref", "doc", "dfn", "pep", "rfc", "abbr", "source", "menuselection"):
        return f"PEP {body}" if kind == "pep" else f"RFC {body}" if kind == "rfc" else body
    return f"`{body}()`" if kind in _CALLABLE and not body.endswith(")") else f"`{body}`"


def _join_lines(rst: str) -> str:
    """Roles and literals that span two lines, put in the form that `inline` makes of one line."""
    rst = re.sub(r":([\w:+.-]+):`([^`\n]+\n[^`\n]+)`", _role, rst)
    return re.sub(r"(?<!`)``([^`\n]+)\n *([^`\n]+)``(?!`)", r"``\1 \2``", rst)


def inline(text: str) -> str:
    """Roles, literals, links and substitutions as plain Markdown-like prose."""
    text = re.sub(r":([\w:+.-]+):`([^`]+)`", _role, text)
    text = re.sub(r"``(.+?)``", r"`\1`", text)
    text = re.sub(r"`([^`<]+?)\s*<[^`>]+>`__?", r"\1", text)
    text = re.sub(r"(?<![\w*])\*\*([^*\n]+)\*\*(?![\w*])", r"\1", text)
    text = re.sub(r"(?<![\w*])\*([^*\s][^*\n]*)\*(?![\w*])", r"`\1`", text)
    text = re.sub(r"\|version\|", "3.11", text)
    text = re.sub(r"\|(\w[^|\n]*)\|", r"\1", text)
    return re.sub(r"\\([*_`\\|])", r"\1", text)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def clean(rst: str) -> str:
    """One document: headings as `#` lines, directives as prose, code kept."""
    lines = _join_lines(rst.expandtabs()).splitlines()
    out: list[str] = []
    index = 0
    while index < len(lines):
        line = lines[index]
        following = lines[index + 1] if index + 1 < len(lines) else ""
        if re.fullmatch(r"([=\-~^*\"'#+])\1{2,}\s*", line):
            index += 1
            continue
        if line.strip() and re.fullmatch(r"([=\-~^*\"'#+])\1{2,}\s*", following):
            level = {"=": "#", "*": "#", "#": "#", "-": "##"}.get(following[0], "###")
            out += ["", f"{level} {inline(line.strip())}", ""]
            index += 2
            continue
        match = _DIRECTIVE.match(line)
        if match:
            index = _directive(lines, index, match, out)
        elif re.match(r"^\s*\.\.( |$)", line):
            index = _skip_block(lines, index)
        else:
            text = re.sub(r"::\s*$", ":", line) if not line.strip() == "::" else ""
            out.append(inline(text) if not line.lstrip().startswith((">>>", "...")) else text)
            index += 1
    text = "\n".join(part.rstrip() for part in out)
    text = re.sub(r"\*\*Source code:\*\* .*|^Source code: .*$", "", text, flags=re.M)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"^-{4,}$", "", text, flags=re.M)).strip() + "\n"


def _skip_block(lines: list[str], index: int) -> int:
    """The index after the block whose head stands at `index`."""
    depth = _indent(lines[index])
    index += 1
    while index < len(lines) and (not lines[index].strip() or _indent(lines[index]) > depth):
        index += 1
    return index


def _directive(lines: list[str], index: int, match: re.Match[str], out: list[str]) -> int:
    pad, kind, argument = match[1], match[2], match[3]
    if kind in _DROPPED or kind.startswith("c:") or kind == "opcode":
        return _skip_block(lines, index)
    index += 1
    while index < len(lines) and re.match(r"^\s+:[\w-]+:", lines[index]):
        index += 1  # options such as :noindex:
    if kind in _LABELS:
        label = f"{_LABELS[kind]} {inline(argument)}".strip()
        versioned = kind.startswith(("version", "deprecated"))
        out.append(f"{pad}{label}{'.' if versioned and argument else ''}".rstrip())
    elif kind not in ("code-block", "doctest", "testcode", "testoutput", "parsed-literal", "math"):
        names = [argument]
        while index < len(lines) and lines[index].strip() and _indent(lines[index]) > len(pad):
            if not re.match(r"^\s+:[\w-]+:", lines[index]):
                names.append(lines[index].strip())  # further signatures of one description
            index += 1
        out += ["", *(f"{pad}`{name}`" for name in names if name)]
    return index


def main(sources: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    train: list[str] = []
    held: list[str] = []
    for path in sorted(sources.rglob("*.rst.txt")):
        name = str(path.relative_to(sources)).removesuffix(".rst.txt")
        if name.split("/")[0] not in FOLDERS:
            continue
        text = clean(path.read_text(encoding="utf-8"))
        if name in HELD_OUT:
            held.append(text)
        else:
            train.append(json.dumps({"name": name, "text": text}, ensure_ascii=False))
    (out / "train.jsonl").write_text("\n".join(train) + "\n", encoding="utf-8")
    (out / "heldout.txt").write_text("\n".join(held), encoding="utf-8")
    digests = [
        f"{hashlib.sha256((out / n).read_bytes()).hexdigest()}  {n}\n"
        for n in ("train.jsonl", "heldout.txt")
    ]
    (out / "corpus.sha256").write_text("".join(digests))
    print("".join(digests), end="")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
