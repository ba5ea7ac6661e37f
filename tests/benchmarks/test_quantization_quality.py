"""Methods on a whole model with outliers, and measurements that survive being killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest

from arkinfer.compiler.calibration.text import TextOptions
from arkinfer.frontend.checkpoint import Checkpoint, open_checkpoint
from arkinfer.frontend.hub import demo_checkpoint
from arkinfer.packing import parse_scheme
from benchmarks.quantization_quality import (
    HELD_OUT,
    Judge,
    Row,
    Rows,
    Weights,
    calibrated,
    planted,
    print_pairs,
    print_table,
    rounded,
)

INT4 = parse_scheme("int4-g128")
Divergence: TypeAlias = Callable[[str], float]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Of the held-out text a beginning to judge by, and the rest to calibrate with."""
    whole = HELD_OUT.read_text(encoding="utf-8")
    rest = tmp_path_factory.mktemp("text") / "rest.txt"
    rest.write_text(whole[20_000:], encoding="utf-8")
    return whole[:12_000], rest


@pytest.fixture
def kl_of(request: pytest.FixtureRequest, texts: tuple[str, Path], tmp_path: Path) -> Divergence:
    """What a method costs the demo model with outliers, calibrated on 64 sequences of 128."""
    checkpoint = open_checkpoint(planted(demo_checkpoint(), request.param, 0, tmp_path / "model"))
    judge = Judge(checkpoint, texts[0], 4096)
    text = TextOptions(texts[1], 64, 128)

    def divergence(method: str) -> float:
        return judge(_weights(judge, checkpoint, method, text))[1]

    return divergence


def _weights(judge: Judge, checkpoint: Checkpoint, method: str, text: TextOptions) -> Weights:
    if method == "rtn":
        return rounded(judge, checkpoint, INT4, True)
    return calibrated(checkpoint, INT4, method, text)


@pytest.mark.slow
@pytest.mark.parametrize("kl_of", ["massive"], indirect=True)
def test_first_tokens_mislead_gptq_and_not_p_gptq(kl_of: Divergence) -> None:
    gptq, pgptq, both = (kl_of(method) for method in ("gptq", "pgptq", "spgptq"))
    assert pgptq < 0.95 * gptq
    assert both < 0.95 * gptq
    assert both < 1.05 * pgptq


@pytest.mark.slow
@pytest.mark.parametrize("kl_of", ["hot"], indirect=True)
def test_awq_saves_hot_channels(kl_of: Divergence) -> None:
    rtn, awq, both = (kl_of(method) for method in ("rtn", "awq", "spgptq"))
    assert awq < 0.5 * rtn
    assert both < 0.9 * awq


class _Judge:
    """Says what it is told, and how often it was asked."""

    perplexity = 10.0

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, weights: Weights) -> tuple[float, float]:
        self.asked += 1
        return float(weights["perplexity"]), 0.01 * self.asked


def test_measurements_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second run measures nothing again, and prints what the first did."""
    file, judge = tmp_path / "rows.jsonl", _Judge()
    config = open_checkpoint(demo_checkpoint()).config

    def run() -> str:
        rows, found = Rows(file), dict[tuple[str, str], list[Row]]()
        for method, perplexity in (("pgptq", 11), ("gptq", 12)):
            for seed in range(2):
                weights = {"perplexity": np.float64(perplexity + seed)}
                row = rows.measure("here", INT4, method, seed, judge, lambda w=weights: w)
                found.setdefault((INT4.name, method), []).append(row)
        print_table(found, config)
        print_pairs(found)
        return capsys.readouterr().out

    first = run()
    assert judge.asked == 4
    assert run() == first
    assert judge.asked == 4
    assert "| pgptq int4-g128 | 4.25 | 1.500 ± 0.500 | 0.0150 ± 0.0050 | 0 |" in first
    assert "| pgptq than gptq int4-g128 | 0.0200 ± 0.0000 | 2 of 2 | 1.000 |" in first
    assert "gptq than pgptq" not in first.replace("pgptq than gptq", "")
    line = file.read_text(encoding="utf-8").splitlines()[0]
    file.write_text(line + "\n", encoding="utf-8")  # killed behind the first
    run()
    assert judge.asked == 7
