"""The harness on the demo model and a peer whose speed is known: real processes, real ratios."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from arkinfer.bench.cases import Case, cases
from arkinfer.bench.turns import Turns
from arkinfer.runtime.demo import located
from benchmarks import harness, ours, peers
from benchmarks.results import Contender, read_results
from tests.benchmarks import fake_peer

QUICK = ["--lengths", "4", "--depths", "0", "--tokens", "2", "--launches", "4", "--rounds", "1"]
QUICK += ["--confidence", "70", "--threads", "1", "--no-limits"]
OURS, THEIRS = "arkinfer-onnxruntime", "fake"


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo model stands for the seeded one, so that nothing has to be built."""

    def checkpoint(shape: str, weights: str, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        return Path("no-checkpoint")

    monkeypatch.setattr(ours, "checkpoint", checkpoint)
    monkeypatch.setattr(ours, "prepare", lambda source, folder, backend, weights: located("demo"))
    monkeypatch.setattr(harness, "PAUSE", 0.0)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only peer there is."""
    monkeypatch.setattr(peers, "modules", lambda: [fake_peer])
    monkeypatch.setattr(peers, "python_with", lambda package: Path(sys.executable))


@pytest.mark.usefixtures("demo", "fake")
def test_a_peer_whose_speed_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    saved = tmp_path / "found.json"
    words = [*QUICK, "--steps", "3", "--folder", str(tmp_path), "--json", str(saved)]
    assert harness.main(words) == 0
    out = capsys.readouterr().out
    assert "broken is skipped: The process that ran broken ended with code 7." in out
    assert f"{OURS}: int4 in groups of 128" in out
    assert "fake: it sleeps" in out
    found = read_results(saved)
    assert found.skipped == [line for line in out.splitlines() if "is skipped" in line]
    (run,) = found.runs
    assert [(c.name, c.role) for c in found.contenders] == [(OURS, "ours"), (THEIRS, "peer")]
    decode, prefill, step = Case("decode", 0, 2), Case("prefill", 0, 4), Case("step", 0, 3)
    assert run.speed(THEIRS, decode) == pytest.approx(1 / fake_peer.PER_TOKEN)  # as it says
    assert 10 < run.speed(THEIRS, prefill) <= 1 / fake_peer.PER_TOKEN  # sleeping bounds it
    for case in (prefill, decode):
        assert run.ratios(OURS, THEIRS, case)[1] > 1
    assert list(run.seconds[step]) == [OURS]
    assert run.facts[OURS]["peak_rss"] >= run.facts[OURS]["rss"] > run.facts[THEIRS]["rss"] > 0
    assert run.facts[OURS]["first_token_seconds"] > run.facts[OURS]["load_seconds"] > 0
    assert run.facts[OURS]["correlation"] == pytest.approx(1)
    assert abs(run.facts[THEIRS]["correlation"]) < 0.5  # it runs another model


@pytest.mark.usefixtures("demo", "fake")
def test_the_tables_that_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert harness.main([*QUICK, "--peers", "fake", "--folder", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    titles = [line for line in lines if line.endswith("1 thread") and line[0] != " "]
    assert titles == ["prefill 4, int4, 1 thread", "decode at 0, int4, 1 thread",
                      "processes, 1 thread"]  # fmt: skip
    head = lines[lines.index("decode at 0, int4, 1 thread") + 2]
    assert [cell.strip() for cell in head.strip("|").split("|")] == [
        "", "tokens/s", f"{OURS} is", "quartiles", "at 70 %",
    ]  # fmt: skip
    few = [*QUICK, "--peers", "none", "--launches", "1", "--folder", str(tmp_path)]
    assert harness.main(few) == 0
    out = capsys.readouterr().out
    assert "Intervals at 70 % would need --launches 4." in out
    assert "at 70 % |" not in out


@pytest.mark.usefixtures("demo", "fake")
@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--peers", "fkae"], 'There is no peer "fkae". Did you mean "fake"? Known: broken, fake.'),
        (["--launches", "0"], "There cannot be 0 launches. Give at least 1."),
        (["--threads", "2,0"], "There cannot be 0 threads. Give at least 1."),
        (["--steps", "-4"], "There cannot be -4 tokens in a step. Give at least 1."),
        (["--lengths", "0"], "A prompt length cannot be 0"),
        (["--confidence", "100"], "The confidence cannot be 100 %"),
        (["--llama-bench", "no/such"], 'There is no program "no/such". Give the path of a llama-'),
    ],
)
def test_requests_that_cannot_be_met(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], text: str
):
    assert harness.main([*QUICK, "--folder", str(tmp_path), *words]) == 2
    assert capsys.readouterr().err.startswith(f"error: {text}")


@pytest.mark.usefixtures("demo", "fake")
def test_a_peer_that_was_asked_for_must_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert harness.main([*QUICK, "--folder", str(tmp_path), "--peers", "broken"]) == 1
    assert "The process that ran broken ended with code 7" in capsys.readouterr().err


@pytest.mark.usefixtures("demo", "fake")
def test_a_program_that_was_given_must_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    program = tmp_path / "llama-bench"
    program.write_text("#!/bin/sh\n")
    words = ["--peers", "none", "--llama-bench", str(program), "--gguf-types", "Q9"]
    assert harness.main([*QUICK, "--folder", str(tmp_path), *words]) == 4
    assert capsys.readouterr().err == (
        'error: The model for the peer "llama-bench-q9" could not be made. There is no program '
        f"{tmp_path}/llama-quantize, which makes Q9. It needs: pip install gguf safetensors torch, "
        "or all peers beside ours: make peers.\n"
    )


def test_heats():
    """By depth; long prompts once and before decoding there; steps of ours beside single tokens."""
    us = Contender("us", "ours", "int4", "")
    them = Contender("them", "peer", "int4", "")
    wanted = cases([512, 8192], [0, 8192], 16, 1 << 16)
    heats = harness.heats_of([us, them], wanted, [4], 10)
    first = [(heat.entries[0][1].name, len(heat.entries), heat.rounds, heat.warm) for heat in heats]
    assert first == [
        ("decode at 0", 3, 10, True), ("prefill 512", 2, 10, True),
        ("prefill 8,192", 2, 1, False), ("decode at 8,192", 3, 10, True),
    ]  # fmt: skip
    assert ("us", Case("step", 8192, 4)) in heats[3].entries
    assert ("them", Case("step", 8192, 4)) not in heats[3].entries


def test_logits_are_compared_with_ours_that_run_the_same_model():
    names = {"int4": "int4", "t": "ternary", "peer": "ternary", "torch": "bf16", "shy": "int4"}
    roles: Any = {"int4": "ours", "t": "ours"}
    contenders = [Contender(n, roles.get(n, "peer"), w, "") for n, w in names.items()]  # type: ignore[arg-type]  # str
    logits = {"int4": [1.0, 2, 4], "t": [4.0, 1, 2], "peer": [8.0, 2, 4], "torch": [2.0, 4, 8]}
    ready = {n: {"load_seconds": 1.0, "first_token_seconds": 2.0, "rss": {"now": 1}}
             | ({"logits": logits[n]} if n in logits else {}) for n in names}  # fmt: skip
    run = harness.run_of(Turns([], [ready], [dict.fromkeys(names, 2)]), 2, contenders)
    found = {name: facts["correlation"] for name, facts in run.facts.items()}
    assert found == {"int4": 1, "t": 1, "peer": pytest.approx(1), "torch": pytest.approx(1),
                     "shy": None}  # fmt: skip


@pytest.mark.slow
def test_a_seeded_checkpoint_and_pytorch(tmp_path: Path):
    """The whole way, with the tiny shape: both run the same model, beside the machine's limits."""
    pytest.importorskip("transformers")
    saved = tmp_path / "found.json"
    words = ["--lengths", "4", "--depths", "0,8", "--tokens", "2", "--launches", "1"]
    words += ["--folder", str(tmp_path), "--shape", "tiny", "--peers", "torch-eager", "--ternary"]
    assert harness.main([*words, "--threads", "1,2", "--json", str(saved)]) == 0
    found = json.loads(saved.read_text())
    assert [run["threads"] for run in found["runs"]] == [1, 2]
    assert [c["name"] for c in found["contenders"]] == [
        OURS, "limit", "torch-eager", f"{OURS}-ternary", "limit-ternary",
    ]  # fmt: skip
    for run in found["runs"]:
        assert run["facts"]["torch-eager"]["correlation"] > 0.9
