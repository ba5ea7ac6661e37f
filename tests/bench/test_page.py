"""The pages of runs and comparisons: complete, small, and with pictures of what was measured."""

from __future__ import annotations

import copy
import re
from typing import Any

from arkinfer.bench.cases import Case
from arkinfer.bench.compare import Rule, difference, verdict
from arkinfer.bench.measure import Measured, rates, summary
from arkinfer.bench.page import compare_page, run_page
from arkinfer.report.page import LIMIT
from tests.bench.runs import MACHINE, run

CURVE = [Case("prefill", 0, 32 << n) for n in range(11)]
CURVE += [Case("decode", d, 32) for d in (0, *(512 << n for n in range(7)))]


def measured(cases: list[Case], variant: str | None = None) -> dict[str, Any]:
    ready = {"rss": {"now": 2, "peak": 3}, "rss_before": 1, "load_seconds": 0.1,
             "first_token_seconds": 0.5, "variant": variant}  # fmt: skip
    seconds = {case: [[0.1, 0.2, 0.3]] * 6 for case in cases}
    return {**run(), **Measured(seconds, [ready] * 6, [3 << 20] * 6).to_json()}


def test_a_curve():
    html = run_page(measured(CURVE))
    assert html.count("<svg") == 2
    assert "Prefill by prompt length" in html
    assert "Decode by depth" in html
    assert len(html.encode()) <= LIMIT / 5
    assert html.count("<tr><td") == len(CURVE)
    assert re.search(r"https?:|src=|@import", html) is None
    assert "<dt>governor</dt><dd>performance</dd>" in html
    assert "<dt>temperature</dt><dd>not measured</dd>" in html


def test_single_points_are_bars():
    html = run_page(measured([CURVE[0], CURVE[-1]]))
    assert html.count("<svg") == 1
    assert "decode at 32,768" in html


def test_what_the_kernels_were_for():
    assert "<dt>kernels for</dt><dd>i8mm</dd>" in run_page(measured(CURVE, "i8mm"))
    assert "kernels for" not in run_page(measured(CURVE))


def test_what_slowed_the_machine_stands_on_top():
    facts = copy.deepcopy(measured(CURVE))
    facts["environment"]["disturbed"] = ["heat slowed it once"]
    facts["environment"]["after"]["temperature"] = 90.0
    html = run_page(facts)
    assert '<p class="verdict bad">heat slowed it once</p>' in html
    assert "not measured; after 90.0 °C" in html


def test_a_comparison():
    case = Case("prefill", 0, 128)
    found = [difference(case, [[(1.0, 1.5)] * 3] * 10, Rule(), 0.01)]
    side = {"path": "<b>m</b>.ark", "backend": "onnxruntime", "threads": 2}
    facts = {
        "verdict": verdict(found), "a": side, "b": {**side, "threads": None}, "confidence": 99.0,
        "notes": ["busy"], "cases": [d.to_json() for d in found],
        "environment": {"before": MACHINE.to_json(), "after": MACHINE.to_json(), "disturbed": []},
    }  # fmt: skip
    html = compare_page(facts)
    assert '<p class="verdict bad">B is slower than A: by 33 %' in html
    assert html.count("<svg") == 2
    assert "&lt;b&gt;m&lt;/b&gt;.ark, onnxruntime, threads: 2" in html
    assert "Note: busy." in html
    unknown = [difference(case, [[(1.0, 1.5)]], Rule(), 0.01).to_json()]
    assert "unknown … unknown" in compare_page({**facts, "cases": unknown})


def test_rates():
    assert rates(Case("decode", 0, 10), [[1.0], [2.0, 5.0]]) == [10.0, 5.0, 2.0]
    assert summary(rates(Case("decode", 0, 10), [[1.0], [2.0, 5.0]]))["median"] == 5.0
