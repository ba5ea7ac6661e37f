"""The site builds without a complaint, and its pages load nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\bsrc=["']?([^"'\s>]+)
      | <link\b(?=[^>]*\brel=["']?(?:stylesheet|icon|preload|preconnect|modulepreload|manifest))
             [^>]*?\bhref=["']?([^"'\s>]+)
      | (?:\burl\(|@import\s)\s*["']?([^"')\s]+)""",
    re.X,
)


def loads(text: str) -> list[str]:
    """What a page or a style sheet makes a browser fetch."""
    return [next(filter(None, groups)) for groups in LOADED.findall(text)]


def test_nothing_is_loaded_from_elsewhere(site: Path):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) >= 20
    for path in (*pages, *site.rglob("*.css"), *site.rglob("*.svg")):
        text = path.read_text("utf-8")
        found = loads(text)
        assert path.suffix != ".html" or any(word.endswith(".js") for word in found)
        foreign = [word for word in found if re.match(r"(?:[a-z]+:)?//", word)]
        assert foreign == [], path


def test_the_check_sees_what_a_page_loads():
    page = """<link rel=stylesheet href=a.css><link href="https://b/c.css" rel="stylesheet">
      <script src="//d/e.js"></script><a href="https://f"></a><style>@import "g.css"; i{x:url(h)}"""
    assert loads(page) == ["a.css", "https://b/c.css", "//d/e.js", "g.css", "h"]


def test_few_top_level_entries():
    nav = (ROOT / "mkdocs.yml").read_text("utf-8").split("\nnav:\n")[1]
    assert 5 <= len(re.findall(r"^  - ", nav, re.M)) <= 8


def test_the_index_lists_the_decisions():
    folder = ROOT / "docs" / "adr"
    linked = re.findall(r"\]\(([\w-]+\.md)\)", (folder / "index.md").read_text("utf-8"))
    assert linked == sorted(p.name for p in folder.glob("[0-9]*.md"))
