"""Charts and pages from saved results: the same bytes each time, and nothing else touched."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import charts
from tests.benchmarks.test_results import results

PAGE = f"# Speed\n\nBefore.\n\n{charts.BEGIN}\nold\n{charts.END}\n\nAfter.\n"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "found.json"
    path.write_text(json.dumps(results().to_json()))
    return path


def draw(saved: Path, *words: str) -> int:
    folder = saved.parent / "pages" / "charts"
    return charts.main(["--folder", str(folder), str(saved), *words])


def test_the_same_bytes_each_time(saved: Path):
    page = saved.parent / "pages" / "speed.md"
    page.parent.mkdir()
    page.write_text(PAGE)
    found: list[dict[str, bytes]] = []
    for _ in range(2):
        assert draw(saved, "--into", str(page), "--note", "On a quiet day.") == 0
        files = [page, *sorted((page.parent / "charts").iterdir())]
        found.append({file.name: file.read_bytes() for file in files})
    assert found[0] == found[1]
    assert list(found[0]) == ["speed.md", "decode-0-int4-2.svg", "prefill-512-int4-2.svg"]
    text = page.read_text()
    assert text.startswith(f"# Speed\n\nBefore.\n\n{charts.BEGIN}\n")
    assert text.endswith(f"{charts.END}\n\nAfter.\n")
    assert "old" not in text
    for part in ("On a quiet day.", "tiny, A <CPU>, 2 hardware threads, load before the run 0.1",
                 "![decode 0 int4 2](charts/decode-0-int4-2.svg)",
                 "**Decode at 0, int4, 2 threads**",
                 "| peer         |     25.0 |            2.00 |",
                 "- other is skipped: it is not installed"):  # fmt: skip
        assert part in text


def test_a_chart_shows_everybody_and_the_limit(saved: Path):
    picture = charts.charts(results())["decode-0-int4-2.svg"]
    root = ElementTree.fromstring(picture)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"  # so that it is a picture on its own
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == [
        "decode at 0, int4, 2 threads",
        "arkinfer-tvm", "41.7 tok/s, 50 % of the limit", "peer", "25 tok/s, 30 % of the limit",
    ]  # fmt: skip


def test_lines_where_there_are_depths():
    found = results()
    (run,) = found.runs
    decode = next(case for case in run.seconds if case.kind == "decode")
    deeper = type(decode)("decode", 8192, decode.tokens)
    run.seconds[deeper] = {"arkinfer-tvm": [[1.0], [1.0]]}
    picture = charts.charts(found)["decode-by-depth-int4-2.svg"]
    assert "8,192" in picture
    assert "decode by depth, int4, 2 threads" in picture


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("no marks", "has no place for charts. It lacks the two marks, or has more. Write a line"),
        (charts.BEGIN, "has no place for charts"),
        (PAGE + PAGE, "has no place for charts"),
    ],
)
def test_a_page_without_a_place(
    saved: Path, text: str | None, message: str, capsys: pytest.CaptureFixture[str]
):
    page = saved.parent / "page.md"
    if text is not None:
        page.write_text(text)
    assert draw(saved, "--into", str(page)) == 2
    assert message in capsys.readouterr().err
    assert text is None or page.read_text() == text
    assert not (saved.parent / "pages").exists()  # nothing was drawn


def test_several_runs(saved: Path, capsys: pytest.CaptureFixture[str]):
    page = saved.parent / "page.md"
    page.write_text(PAGE)
    deep = saved.parent / "deep.json"
    facts = json.loads(saved.read_text().replace('"depth": 0', '"depth": 8192'))
    for run in facts["runs"]:
        run["results"] = [each for each in run["results"] if each["kind"] == "decode"]
    deep.write_text(json.dumps(facts))
    assert draw(saved, str(deep), "--into", str(page)) == 0
    text = page.read_text()
    assert text.index("**Decode at 0, int4") < text.index("**Decode at 8,192, int4")
    assert draw(saved, str(saved), "--into", str(page)) == 2
    assert "Two of the runs have the chart" in capsys.readouterr().err
    assert page.read_text() == text


def test_no_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert draw(tmp_path / "none.json") == 2
    assert "cannot be read. No such file or directory" in capsys.readouterr().err
