"""docs/jetson.md says what the code knows: releases, predictions and messages."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from arkinfer import plan
from arkinfer.machine.jetson import RELEASES
from arkinfer.testing import preset
from arkinfer_trt.board import OLDEST
from arkinfer_trt.lint.rules import RULES
from tests.docs.pages import ROOT, text_of
from tests.docs.test_troubleshooting import literals

PAGE = text_of(ROOT / "docs" / "jetson.md")


def table(first: str) -> list[list[str]]:
    """Rows of the table whose head begins so."""
    _, _, rest = PAGE.partition(f"\n| {first} | ")
    lines = rest.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]


def test_releases_are_those_that_a_board_is_told_by() -> None:
    """JetPack, CUDA and TensorRT of each, and whether it is new enough."""
    rows = {
        name: (linux.split(", "), cuda, tensorrt, use)
        for names, linux, _, cuda, tensorrt, _, use in table("JetPack")
        for name in names.split(", ")
    }
    assert set(rows) == {release.name for _, release in RELEASES}
    for since, release in RELEASES:
        linux, cuda, tensorrt, use = rows[release.name]
        assert ".".join(map(str, since[:2])) in linux
        assert release.cuda == cuda
        assert release.tensorrt.startswith(tensorrt)
        new = tuple(map(int, tensorrt.split("."))) >= OLDEST
        assert use.startswith("on the GPU") == new


def test_the_first_tensorrt_is_that_of_the_rules() -> None:
    ops = ("RMSNormalization", "RotaryEmbedding", "TensorScatter")
    assert {RULES[op].since for op in ops} == {".".join(map(str, OLDEST))}
    assert f"TensorRT {'.'.join(map(str, OLDEST))} is the first" in PAGE


@pytest.mark.slow
@pytest.mark.parametrize("row", table("shape"), ids=lambda row: "-".join(row[:2]))
def test_predictions_are_those_of_plan(row: list[str], tmp_path: Path) -> None:
    cells = (cell.strip("`").replace(",", "") for cell in row)
    shape, quant, size, smaller, short, long, *rates = cells
    (tmp_path / "config.json").write_text(json.dumps(preset(shape)))
    dtype = "fp16" if quant == "none" else None

    def predicted(target: str, context: int | None = None, *, no_cpu: bool = False):
        return plan(tmp_path, target, quant, context=context, dtype=dtype, no_cpu=no_cpu)

    agx = "jetson-agx-orin-64gb"
    assert f"{predicted(agx, no_cpu=True).artifact_bytes / 1e9:.2f}" == smaller
    for context, said in ((4096, short), (32768, long)):
        assert f"{predicted(agx, context).run_bytes / 1e9:.1f}" == said
    boards = ("jetson-orin-nano-8gb", "jetson-orin-nx-16gb", agx, "rtx-4090")
    for target, said in zip(boards, rates, strict=True):
        found = predicted(target)
        assert f"{found.artifact_bytes / 1e9:.2f}" == size
        fits = found.largest_context > 0
        assert (f"{found.decode[0].tokens_per_second:.0f}" if fits else "") == said


def test_messages_are_ours() -> None:
    rows = table("you see")
    quoted = [words for seen, *_ in rows for words in re.findall(r"^`(.+)`$", seen)]
    assert len(quoted) >= 10
    source = literals()
    assert [words for words in quoted if words not in source] == []
