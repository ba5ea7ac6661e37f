"""Charts are well-formed, say what they show, refer to nothing, and survive odd values."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from arkinfer.report import Bar, Series, bar_chart, line_chart
from arkinfer.report.charts import WIDTH

NAN = float("nan")
LINE = Series("int4", [(128, 900.0), (512, 2000.0), (2048, 1500.0)])


def parsed(svg: str) -> ET.Element:
    root = ET.fromstring(svg)
    assert re.search(r"https?:|//|src=|href|@import|url\(|<script|nan|inf\b", svg) is None
    return root


def coordinates(root: ET.Element) -> list[tuple[float, float]]:
    return [(float(n.get("cx", "")), float(n.get("cy", ""))) for n in root.iter("circle")]


def test_a_line_goes_where_its_points_are():
    root = parsed(line_chart("Prefill", "tokens", "tok/s", [LINE], log_x=True))
    dots = coordinates(root)[:3]
    assert [x for x, _ in dots] == sorted(x for x, _ in dots)
    assert dots[1][0] - dots[0][0] == pytest.approx(dots[2][0] - dots[1][0], abs=0.2)  # ×4, ×4
    assert dots[1][1] < dots[2][1] < dots[0][1]  # y grows downwards
    assert len([n for n in root.iter("path") if n.get("class") == "line"]) == 1


def test_it_can_be_read_without_being_seen():
    root = parsed(line_chart("Prefill", "prompt tokens", "tok/s", [LINE]))
    assert root.get("role") == "img"
    assert root.get("aria-label") == "Prefill"
    assert root.findtext("title") == "Prefill"
    assert root.findtext("desc") == (
        "tok/s by prompt tokens. int4: 900 at 128, 2,000 at 512, 1,500 at 2,048."
    )
    many = Series("x", [(i, (i - 30) ** 2) for i in range(100)])
    assert "100 points, lowest 0 at 30, highest 4,761 at 99" in line_chart("t", "", "", [many])


def test_few_points_are_labelled_by_themselves():
    root = parsed(line_chart("t", "x", "y", [LINE], log_x=True))
    assert {"128", "512", "2,048"} <= {n.text for n in root.iter("text")}


def test_a_band_and_a_whisker():
    banded = Series("a", LINE.points, [800, 1900, 1400], [1000, 2100, 1600])
    assert "Z" in line_chart("t", "x", "y", [banded])
    one = Series("a", [(1, 5.0)], [4.0], [6.0])
    root = parsed(line_chart("t", "x", "y", [one]))
    assert [n for n in root.iter("path") if n.get("class") == "whisker"]


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "points",
    [[], [(1, NAN)], [(NAN, 1)], [(1, float("inf"))], [(0, 0)], [(-1, -1)], [(1, 5)],
     [(1, 5), (2, 5)], [(1, 5), (2, NAN), (3, 7)], [(1e-30, 1e30), (1e30, 1e-30)]],
)  # fmt: skip
def test_odd_values(points: list[tuple[float, float]], log: bool):
    series = Series("s", points, [y - 1 for _, y in points], [y + 1 for _, y in points])
    parsed(line_chart("t", "x", "y", [series], log_x=log, log_y=log))


def test_a_hole_breaks_the_line():
    holed = Series("s", [(1, 1), (2, 2), (3, NAN), (4, 4), (5, 5)])
    root = parsed(line_chart("t", "x", "y", [holed]))
    assert len([n for n in root.iter("path") if n.get("class") == "line"]) == 2


def test_nothing_measured_is_said():
    for series in ([], [Series("s", [(1, NAN)])]):
        assert "not measured" in [n.text for n in parsed(line_chart("t", "x", "y", series)).iter()]


def test_legends_wrap_and_long_names_lose_their_middle():
    series = [Series(f"model.layers.{i}.self_attn.q_proj" * 3, [(i, i)]) for i in range(9)]
    root = parsed(line_chart("t", "x", "y", series))
    few = parsed(line_chart("t", "x", "y", series[:1]))
    height = [float((r.get("viewBox") or "").split()[3]) for r in (few, root)]
    assert height[1] >= height[0] + 8 * 20
    legend = [n for n in root.iter("text") if "…" in (n.text or "")]
    assert len(legend) == 9
    assert all((n.text or "").startswith("model.") for n in legend)
    assert all((n.text or "").endswith("q_proj") for n in legend)


def test_many_points_stay_a_small_picture():
    points = [(float(i), float(i % 97)) for i in range(50_000)]
    points[31_234] = (31_234.0, 5000.0)
    svg = line_chart("t", "x", "y", [Series("s", points)])
    parsed(svg)
    assert len(svg) < 16_000
    assert "5,000 at 31,234" in svg  # the peak is kept


def test_bars():
    bars = [Bar("mlp", 12.5, "31 %", 11, 14), Bar("head", 6.25), Bar("none", NAN)]
    root = parsed(bar_chart("Time", "ms", bars))
    texts = [n.text for n in root.iter("text")]
    assert {"Time", "mlp", "12.5 ms, 31 %", "6.25 ms", "not measured"} <= set(texts)
    width = [float(n.get("width", "")) for n in root.iter("rect") if "c0" in n.get("style", "")]
    assert width[0] == pytest.approx(2 * width[1], abs=0.2)
    assert len([n for n in root.iter("path") if n.get("class") == "whisker"]) == 1


def test_bars_of_both_signs_start_at_zero():
    root = parsed(bar_chart("Change", "%", [Bar("a", -4), Bar("b", 8)]))
    left, right = [n for n in root.iter("rect") if "c0" in n.get("style", "")]
    end = float(left.get("x", "")) + float(left.get("width", ""))
    assert end == pytest.approx(float(right.get("x", "")), abs=0.2)


def test_no_bars():
    assert "nothing to show" in [n.text for n in parsed(bar_chart("t", "ms", [])).iter()]


def test_everything_stays_inside_the_picture():
    series = [Series("s", [(1, 1e6), (10, 123_456_789)])]
    for svg in (line_chart("e" * 200, "x" * 200, "y" * 200, series),
                bar_chart("e" * 200, "ms", [Bar("b" * 200, 3, "n" * 300)])):  # fmt: skip
        for text in parsed(svg).iter("text"):
            assert 0 <= float(text.get("x", "")) <= WIDTH
            assert len(text.text or "") <= 60


def test_foreign_texts_are_escaped():
    bad = '</svg><script>alert("1")</script>\x00\x1b[31m'
    for svg in (
        line_chart(bad, bad, bad, [Series(bad, [(1, 1)])]),
        bar_chart(bad, bad, [Bar(bad, 1, bad)]),
    ):
        parsed(svg)
        assert "<script" not in svg
