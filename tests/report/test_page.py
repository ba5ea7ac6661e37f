"""Pages: complete in themselves, escaped, short enough, readable on a telephone's screen."""

from __future__ import annotations

import errno
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from arkinfer.errors import ResourceError, UsageError
from arkinfer.report import (
    Bar,
    Block,
    Code,
    Facts,
    Figure,
    Heading,
    Paragraph,
    Series,
    Table,
    Verdict,
    bar_chart,
    line_chart,
    page,
    write_page,
    write_text,
)
from arkinfer.report.page import LIMIT

CHART = line_chart("Speed", "tokens", "tok/s", [Series("a", [(1, 2), (2, 3)])])
EVIL = '<script>alert("x")</script><img src=x onerror=y>\x1b[0m&amp;'


def every(text: str) -> list[Block]:
    """One block of each kind, with the text wherever a text may be."""
    return [
        Heading(text), Paragraph(text), Verdict(text, "bad"), Facts([(text, text)]),
        Table([text, text], [[text, text]], "lr", text, [0]),
        Figure(bar_chart(text, text, [Bar(text, 1, text)]), text), Code(text, text),
    ]  # fmt: skip


class Tags(HTMLParser):
    """Checks that tags are balanced, and keeps their names, attributes and the texts."""

    VOID = frozenset({"meta"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.attributes: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [name for name, _ in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_all_kinds_of_blocks():
    html = page("Title", "Lead.", [*every("word"), Figure(CHART), Figure(CHART, "two")])
    tags = Tags(html)
    assert {"h1", "h2", "dl", "table", "figure", "svg", "pre", "footer"} <= set(tags.names)
    assert tags.names.count("figure") == 3
    assert html.count('class="figures"') == 2  # neighbours share one
    assert "".join(tags.texts).count("word") >= 13


def test_nothing_is_fetched_and_nothing_runs():
    html = page("t", "l", [*every("word"), Figure(CHART)])
    assert re.search(r"https?:|src=|@import|url\(|<script|<link|<iframe|\son\w+=", html) is None
    assert "default-src 'none'" in html


def test_foreign_texts_stay_texts():
    tags = Tags(page(EVIL, EVIL, every(EVIL)))
    assert not {"script", "img"} & set(tags.names)
    assert not {"onerror", "src"} & set(tags.attributes)
    assert "".join(tags.texts).count('alert("x")') >= 12
    assert "\x1b" not in page(EVIL, EVIL, every(EVIL))


def test_it_is_made_for_narrow_screens_too():
    html = page("t", "l", every("x"))
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html
    assert "overflow-x: auto" in html
    assert "prefers-color-scheme: dark" in html


def test_what_was_not_measured():
    html = page("t", "", [Facts([("governor", None), ("cores", 0)])])
    assert "<dt>governor</dt><dd>not measured</dd>" in html
    assert "<dt>cores</dt><dd>0</dd>" in html
    assert 'class="lead"' not in html


def test_columns_and_marked_rows():
    html = page(
        "t", "", [Table(["a", "b", "c"], [["1", "2", "3"], ["4", "5", "6"]], "lr", "", [1])]
    )
    assert '<td class="l">1</td><td class="r">2</td><td class="r">3</td>' in html
    assert '<tr class="marked"><td class="l">4</td>' in html


def test_a_page_has_a_limit():
    rows = [[f"row {i}", "x" * 300] for i in range(20_000)]
    html = page("t", "", [Table(["a", "b"], rows)])
    assert len(html.encode()) <= LIMIT
    shown = re.search(r"The table has 20,000 rows; the first ([\d,]+) are shown\.", html)
    assert shown is not None
    assert 500 <= int(shown[1].replace(",", "")) == html.count("<tr><td")


def test_writing(tmp_path: Path):
    path = tmp_path / "report.html"
    write_page(path, "old")
    write_page(path, "näw")
    assert path.read_text("utf-8") == "näw"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_link_is_followed(tmp_path: Path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_text(tmp_path / "link", "x")
    assert (tmp_path / "real").read_text() == "x"
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("missing/a.html", '"{0}/missing/a.html" cannot be written. There is no folder '
         '"{0}/missing". Make it first.'),
        (".", '"{0}" cannot be written. It is not an ordinary file. Give the name of a file.'),
    ],
)  # fmt: skip
def test_places_that_cannot_be_written(tmp_path: Path, name: str, text: str):
    with pytest.raises(UsageError) as caught:
        write_text(tmp_path / name, "x")
    assert str(caught.value) == text.format(tmp_path)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSPC, "The disk is full. Free some space."),
        (errno.EACCES, "Permission denied. Check the folder's permissions, or name another file."),
    ],
)
def test_a_disk_that_refuses_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, text: str
):
    path = tmp_path / "a.html"
    path.write_text("old")

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(ResourceError) as caught:
        write_text(path, "new")
    assert str(caught.value) == f'"{path}" cannot be written. {text}'
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.html", "old")]
