"""Results of the harness: ratios within rounds, tables, and the way through a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from arkinfer.bench.cases import Case
from arkinfer.bench.compare import Rule
from arkinfer.errors import UsageError
from benchmarks.results import Contender, Results, Run, read_results, tables

DECODE, STEP, PREFILL = Case("decode", 0, 10), Case("step", 0, 4), Case("prefill", 0, 512)
US, THEM = "arkinfer-tvm", "peer"
LIMIT = {"dot": "AVX2", "work": {"weights": 2_000_000, "cached": 1000, "products": 1, "head": 1}}


def results() -> Results:
    """Ours is twice as fast as the peer in the median round, whatever each round's own pace."""
    paces = [[1.0, 7.0], [2.0, 3.0]]
    ours = [[0.1 * pace for pace in launch] for launch in paces]
    theirs = [[s * r for s, r in zip(launch, ratios, strict=True)]
              for launch, ratios in zip(ours, [[2.0, 3.0], [1.5, 2.0]], strict=True)]  # fmt: skip
    steps = [[0.15 * 0.1 * pace for pace in launch] for launch in paces]
    limit = [[s / 2 for s in launch] for launch in ours]
    facts = {"load_seconds": 0.5, "first_token_seconds": 1.0, "rss": 1 << 20, "peak_rss": 3 << 20,
             "filled": "prefilled", "correlation": 0.875}  # fmt: skip
    run = Run(
        2,
        {DECODE: {US: ours, THEM: theirs, "limit": limit}, STEP: {US: steps},
         PREFILL: {US: ours, THEM: theirs}},
        {US: facts, THEM: {**facts, "correlation": None}, "limit": facts | LIMIT},
    )  # fmt: skip
    contenders = [
        Contender(US, "ours", "int4", "fast"), Contender("limit", "limit", "int4", "all of it"),
        Contender(THEM, "peer", "int4", "slow"),
    ]  # fmt: skip
    machine = {"cpu": "A <CPU>", "logical_cores": 2, "load": 0.1}
    settings = {"shape": "tiny", "launches": 2}
    return Results(settings, {"before": machine, "after": machine}, contenders,
                   ["other is skipped: it is not installed"], [run])  # fmt: skip


def test_ratios_are_those_of_rounds():
    run = results().runs[0]
    assert run.ratios(US, THEM, DECODE) == pytest.approx((1.875, 2.0, 2.25))
    assert run.ratios(US, "limit", DECODE) == pytest.approx((0.5, 0.5, 0.5))
    assert run.speed(US, DECODE) == pytest.approx(41.67, rel=1e-3)  # 10 / 0.25, the mean of two
    found = run.difference(US, THEM, DECODE, Rule(0.5))
    assert found.observations == pytest.approx((6**0.5, 3**0.5))


def test_what_a_step_costs():
    """15 % of ten tokens is one and a half."""
    run = results().runs[0]
    assert run.cost(US, STEP) == pytest.approx((1.5, 1.5, 1.5))
    assert run.cost(THEM, STEP) is None


def test_tables():
    made = {table.title: table for table in tables(results())}
    assert list(made) == ["prefill 512, int4, 2 threads", "decode at 0, int4, 2 threads",
                          "what a step costs, 2 threads", "the machine, 2 threads",
                          "processes, 2 threads"]  # fmt: skip
    assert made["decode at 0, int4, 2 threads"].lines() == [
        "|              | tokens/s | arkinfer-tvm is |   quartiles |",
        "| ------------ | -------: | --------------: | ----------: |",
        "| limit        |     83.3 |            0.50 | 0.50 … 0.50 |",
        "| arkinfer-tvm |     41.7 |                 |             |",
        "| peer         |     25.0 |            2.00 | 1.88 … 2.25 |",
    ]
    assert made["what a step costs, 2 threads"].rows == [
        ("step of 4 at 0, arkinfer-tvm", "37.50", "1.50", "1.50 … 1.50")
    ]
    assert made["the machine, 2 threads"].rows == [
        ("decode at 0, limit", "2.0 MB", "0.2 GB/s", "reads")
    ]
    rows = made["processes, 2 threads"].rows
    assert rows[0] == (US, "0.50", "1.00", "1", "3", "0.88", "prefilled")
    assert rows[1][5] == "not known"
    with_interval = tables(results(), Rule(0.95))[1]
    assert with_interval.header[-1] == "at 95 %"
    assert [row[-1] for row in with_interval.rows] == ["too few launches", "", "too few launches"]


def test_ternary_stands_beside_our_int4():
    found = results()
    found.contenders += [Contender("arkinfer-tvm-ternary", "ours", "ternary", ""),
                         Contender("tq2", "peer", "ternary", ""),
                         Contender("torch", "peer", "bf16", "")]  # fmt: skip
    names = [c.name for c in found.group("ternary")]
    assert names == ["arkinfer-tvm-ternary", US, "tq2"]
    assert [c.name for c in found.group("int4")] == ["limit", US, THEM, "torch"]


def test_a_file(tmp_path: Path):
    path = tmp_path / "found.json"
    path.write_text(json.dumps(results().to_json()))
    assert read_results(path) == results()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read. No such file or directory. Check the path."),
        ("[1]", "holds no results of the harness. Reason: "),
        ('{"version": 7}', "it has version 7, not 1"),
        ('{"version": 1}', "KeyError('contenders')"),
        ("nonsense", "Make them with: python -m benchmarks.harness --json FILE."),
    ],
)
def test_other_files(tmp_path: Path, text: str | None, message: str):
    path = tmp_path / "other.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_results(path)
    assert message in str(caught.value)
