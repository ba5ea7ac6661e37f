"""`arkinfer profile`: its table, its JSON and its page, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arkinfer.profile.roofline import Peaks, measure_peaks
from tests.backends.lab import Lab
from tests.backends.models import MODELS

Ark = Callable[..., Any]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of three layers for ONNX Runtime, with quantized weights."""
    pytest.importorskip("onnxruntime")
    lab = Lab(tmp_path_factory.mktemp("lab"))
    return lab.path("onnxruntime", MODELS["three layers int4"])


@pytest.fixture(autouse=True)
def peaks(monkeypatch: pytest.MonkeyPatch) -> Peaks:
    """Measured once for all of these tests, for one thread."""
    found = measure_peaks(1)
    monkeypatch.setattr("arkinfer.profile.roofline.measure_peaks", lambda threads: found)
    return found


def test_json_has_stable_keys(ark: Ark, compiled: Path, peaks: Peaks):
    result = ark("profile", compiled, "--depth", 8, "--rounds", 8, "--threads", 1, "--json")
    assert (result.code, result.err) == (0, "")
    facts = json.loads(result.out)
    assert list(facts) == [
        "path", "backend", "threads", "kind", "depth", "tokens", "rounds", "step",
        "kernels_seconds", "outside_seconds", "profiler", "agreement", "peaks", "by", "covering",
        "rows",
    ]  # fmt: skip
    assert (facts["backend"], facts["threads"], facts["kind"]) == ("onnxruntime", 1, "decode")
    assert (facts["depth"], facts["tokens"], facts["rounds"]) == (8, 1, 8)
    assert facts["peaks"] == {"bandwidth": peaks.bandwidth, "flops": peaks.flops}
    assert 0 < facts["step"]["min"] <= facts["step"]["seconds"] <= facts["step"]["max"]
    rows = facts["rows"]
    assert list(rows[0]) == [
        "path", "op", "kernels", "count", "seconds", "share", "bytes", "flops",
        "bytes_per_second", "of_bandwidth", "flops_per_second", "of_float32", "bound",
    ]  # fmt: skip
    assert sum(row["seconds"] for row in rows) == pytest.approx(facts["kernels_seconds"])
    shares = sum(row["share"] for row in rows)
    whole = facts["kernels_seconds"] + facts["outside_seconds"]
    assert shares + facts["outside_seconds"] / whole == pytest.approx(1)
    assert facts["agreement"] == pytest.approx(whole / facts["step"]["seconds"])
    assert [row["seconds"] for row in rows] == sorted((r["seconds"] for r in rows), reverse=True)
    attention = next(row for row in rows if "attn.dense" in row["op"])
    assert (attention["path"], attention["count"]) == ("model.layers.*.self_attn", 3)


def test_the_rows_shown_hold_90_percent(ark: Ark, compiled: Path):
    facts = json.loads(ark("profile", compiled, "--rounds", 4, "--by", "kernel", "--json").out)
    seconds = sorted((row["seconds"] for row in facts["rows"]), reverse=True)
    number = facts["covering"]["rows"]
    assert facts["covering"]["share"] == 0.9
    assert sum(seconds[:number]) >= 0.9 * sum(seconds) > sum(seconds[: number - 1])


def test_the_table(ark: Ark, compiled: Path):
    out = ark("profile", compiled, "--rounds", 4, "--threads", 1, "--by", "op").out
    lines = out.splitlines()
    assert lines[0] == f"{compiled} on onnxruntime, threads: 1, rounds: 4"
    assert re.fullmatch(
        r"step      1 token at depth 0: \S+ ms without the profiler \(.+ ms to .+ ms\)", lines[1]
    )
    assert re.fullmatch(
        r"profile   \S+ ms in kernels, \S+ ms outside of them: together [\d.]+ % of the step",
        lines[2],
    )
    assert re.fullmatch(
        r"profiler  says \S+ ms in kernels; \S+ ms that it takes itself are off "
        r"\(expected: \S+ ms\)", lines[3]
    )  # fmt: skip
    assert lines[4].startswith("machine   reads ")
    titles = "op kernels ms share MB GB/s of memory GFLOP/s of float32"
    assert lines[6].split() == titles.split()
    assert any(line.startswith("quant.linear ") for line in lines)
    assert lines[-1].startswith("outside of kernels ")
    assert re.match(r"\d+ more \(--all\) ", lines[-2])
    every = ark("profile", compiled, "--rounds", 4, "--by", "op", "--all").out
    assert "more (--all)" not in every
    assert "nn.add + nn.rms_norm" in every


def test_layers_come_in_the_models_order(ark: Ark, compiled: Path):
    facts = json.loads(ark("profile", compiled, "--rounds", 2, "--by", "layer", "--json").out)
    paths = [row["path"] for row in facts["rows"]]
    assert paths == [
        "model.embed_tokens", "model.layers.0", "model.layers.1", "model.layers.2", "model.norm",
        "lm_head",
    ]  # fmt: skip


def test_a_prompt_longer_than_a_chunk(ark: Ark, compiled: Path):
    """40 tokens in chunks of 16; logits of the last are wanted only, and so are the head's."""
    facts = json.loads(ark("profile", compiled, "--prompt-tokens", 40, "--rounds", 2, "--json").out)
    assert (facts["kind"], facts["tokens"]) == ("prefill", 40)
    rows = {(row["path"], row["op"]): row for row in facts["rows"]}
    config = MODELS["three layers int4"].config
    head = rows["lm_head", "quant.linear"]
    assert head["flops"] == 2 * config.hidden_size * config.vocab_size
    gate = rows["model.layers.*.mlp.gate_proj", "quant.linear"]
    product = 2 * config.hidden_size * config.intermediate_size
    # The last layer computes the wanted row of each chunk alone, of which only the last has one.
    assert gate["flops"] == product * (40 + 40 + 1)


def test_the_page(ark: Ark, compiled: Path, tmp_path: Path):
    page = tmp_path / "p.html"
    assert ark("profile", compiled, "--rounds", 2, "--html", page).code == 0
    html = page.read_text("utf-8")
    assert html.count("<svg") == 3
    assert "model.layers.*.mlp.down_proj" in html
    assert "model.layers.2.mlp.down_proj" in html
    assert "outside of kernels" in html
    assert len(html) < 500 << 10


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--by", "ops"],
         '--by cannot be "ops". Did you mean "op"? Known: kernel, layer, op, path.'),
        (["--depth", "48"], "1 tokens at depth 48 do not fit. The context holds 48 tokens. "
         "Give a smaller depth, or fewer tokens."),
        (["--depth", "-1"], "The depth cannot be -1. Give at least 0."),
        (["--rounds", "0"], "The number of rounds cannot be 0. Give at least 1."),
        (["--threads", "0"], "threads cannot be 0. Give at least 1."),
    ],
)  # fmt: skip
def test_requests_that_cannot_be_met(ark: Ark, compiled: Path, options: list[str], text: str):
    result = ark("profile", compiled, *options)
    assert (result.code, result.out, result.err) == (2, "", f"error: {text}\n")


def test_a_section_without_a_listing_is_refused(ark: Ark, model: Path):
    result = ark("profile", model)
    assert result.code == 1
    assert result.err == (
        'error: The section "bigram" does not say what it was compiled from. It has no entry '
        "backends/bigram/module.ir. Build the artifact again.\n"
    )
