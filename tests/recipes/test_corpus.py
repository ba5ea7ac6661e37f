"""The cleaning of the documentation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes.demo import corpus


@pytest.mark.parametrize(
    ("rst", "prose"),
    [
        (":func:`len`", "`len()`"),
        (":meth:`~list.append`", "`append()`"),
        (":mod:`os.path`", "`os.path`"),
        (":ref:`the tutorial <tut-intro>`", "the tutorial"),
        (":pep:`484` and :rfc:`7159`", "PEP 484 and RFC 7159"),
        ("``x = 1`` is **bold**", "`x = 1` is bold"),
        ("see `the site <http://example.org>`_", "see the site"),
        ("Python |version|", "Python 3.11"),
    ],
)
def test_inline_markup_becomes_prose(rst: str, prose: str) -> None:
    assert corpus.inline(rst) == prose


def test_a_role_may_span_two_lines() -> None:
    text = corpus.clean("See :ref:`the difference between\n   parameters <faq-a>` there.\n")
    assert text == "See the difference between\n   parameters there.\n"


def test_a_literal_may_span_two_lines() -> None:
    assert corpus.clean("so ``x < y and\ny <= z`` holds\n") == "so `x < y and y <= z` holds\n"


def test_directives_keep_their_text_and_lose_their_options() -> None:
    rst = (
        "Title\n=====\n\n.. module:: title\n\n.. function:: one(a)\n              two(b)\n"
        "   :noindex:\n\n   Does it.\n\n.. note:: Careful.\n\n.. index:: gone\n"
    )
    text = corpus.clean(rst)
    assert text == "# Title\n\n`one(a)`\n`two(b)`\n\n   Does it.\n\nNote: Careful.\n"


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    for name in ("library/heapq", "library/sched", "whatsnew/3.11"):
        path = sources / f"{name}.rst.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n{'=' * len(name)}\n\nText on {name}.\n")
    outputs = []
    for out in ("a", "b"):
        corpus.main(sources, tmp_path / out)
        outputs.append({p.name: p.read_bytes() for p in (tmp_path / out).iterdir()})
    assert outputs[0] == outputs[1]
    train = [json.loads(line) for line in outputs[0]["train.jsonl"].splitlines()]
    assert [document["name"] for document in train] == ["library/heapq"]
    assert outputs[0]["heldout.txt"] == b"# library/sched\n\nText on library/sched.\n"
