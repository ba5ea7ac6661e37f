"""docs/format.md and the docstrings say what is so."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from arkinfer.artifact import DTYPES, open_artifact
from arkinfer.artifact.layout import END_SIZE, Entry, central_record, end_records, local_header
from arkinfer.artifact.manifest_schema import SCHEMA

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "format.md").read_text()


def test_the_reader_of_the_page_reads(small: Path):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    for path in (small, ROOT / "tests" / "artifact" / "formats" / "v1.ark"):
        manifest, entries = names["read_ark"](path)
        with open_artifact(path) as artifact:
            assert manifest == artifact.manifest
            assert list(entries) == [entry.name for entry in artifact.entries()]
            assert all(bytes(entries[name]) == artifact.read(name) for name in entries)


def table(title: str) -> list[tuple[int, int]]:
    """Offsets and lengths of a record's fields, for a name of 3 bytes and no padding."""
    rows = re.findall(
        r"^\| ([\d +*n]+) \| ([\d +*np]+) \|", PAGE.split(f"### {title}")[1].split("\n#")[0], re.M
    )

    def value(text: str) -> int:
        return sum(int(part) for part in text.replace("*n*", "3").replace("*p*", "0").split("+"))

    return [(value(offset), value(length)) for offset, length in rows]


@pytest.mark.parametrize(
    ("title", "size"),
    [
        ("Local header", 59),  # and padding
        ("Central directory record", len(central_record(Entry("abc", 0, 0, 0)))),
        ("End records", END_SIZE),
    ],
)
def test_the_fields_of_the_tables_follow_each_other(title: str, size: int):
    position = 0
    for offset, length in table(title):
        assert offset == position
        position += length
    assert position == size


def test_values_of_the_tables_are_those_of_the_code():
    entry = Entry("abc", 4096 * 9, 77, 0x01020304)
    header, record = local_header(entry), central_record(entry)
    assert header[:30].hex() == "504b03042d0000000000000021000403020" + (
        "1ffffffffffffffff0300" + (4096 - 33).to_bytes(2, "little").hex()
    )
    assert header[33 + 20 : 33 + 26] == bytes.fromhex("35d9") + (4096 - 57).to_bytes(
        2, "little"
    ) + bytes.fromhex("0010")
    assert record[4:8].hex() == "2d032d00"
    assert record[38:46].hex() == "0000a481ffffffff"
    end = end_records(2, 3, 5)
    assert end[4:12] == (44).to_bytes(8, "little")
    assert end[64:72] == (8).to_bytes(8, "little")


def test_the_page_names_every_key_and_type():
    for key in SCHEMA["properties"]:
        assert f"`{key}`" in PAGE
    listed = PAGE.split("Element types: `")[1].split("`")[0].split()
    assert listed == list(DTYPES)


@pytest.mark.parametrize("module", ["dtypes", "layout", "schema", "reader"])
def test_docstring_examples(module: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    result = doctest.testmod(importlib.import_module(f"arkinfer.artifact.{module}"))
    assert result.attempted > 0
    assert result.failed == 0
