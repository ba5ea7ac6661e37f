"""The harness on the demo model and a peer whose speed is known: real processes, real ratios."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from arkinfer.bench.cases import Case
from arkinfer.bench.compare import Observed, Rule
from arkinfer.runtime.demo import located
from benchmarks import harness, ours, peers
from tests.benchmarks import fake_peer

QUICK = ["--lengths", "4", "--depths", "0", "--tokens", "2", "--launches", "5", "--rounds", "1"]
QUICK += ["--confidence", "80", "--threads", "1"]


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo model stands for the seeded one, so that nothing has to be built."""
    monkeypatch.setattr(ours, "checkpoint", lambda shape, folder: Path("no-checkpoint"))
    monkeypatch.setattr(ours, "prepare", lambda source, folder, backend: located("demo"))
    monkeypatch.setattr(harness, "PAUSE", 0.0)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only peer there is."""

    def command(name: str, path: Path, threads: int, capacity: int, seed: int) -> list[str]:
        given = {"path": str(path), "threads": threads, "capacity": capacity, "seed": seed}
        return [sys.executable, "-m", "tests.benchmarks.fake_peer", json.dumps(given)]

    monkeypatch.setattr(peers, "names", lambda: ["fake"])
    monkeypatch.setattr(peers, "peer", lambda name: fake_peer)
    monkeypatch.setattr(peers, "command", command)


@pytest.mark.usefixtures("demo", "fake")
def test_a_peer_whose_speed_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    saved = tmp_path / "found.json"
    assert harness.main([*QUICK, "--folder", str(tmp_path), "--json", str(saved)]) == 0
    out = capsys.readouterr().out
    assert "arkinfer (onnxruntime, int4 in blocks of 128" in out
    assert "and fake (it sleeps)" in out
    assert "NOT the same model" in out
    (found,) = json.loads(saved.read_text())["comparisons"]
    assert (found["backend"], found["peer"], found["launches"]) == ("onnxruntime", "fake", 5)
    assert abs(found["correlation"]) < 0.5
    for case in found["cases"]:
        assert 10 < case["b"] <= 1 / fake_peer.PER_TOKEN  # its speed, which sleeping bounds
        assert case["a"] > case["b"]
        assert case["verdict"] == "slower"
        assert case["speed"]["high"] < 1
    assert found["processes"]["a"]["peak_rss"] > found["processes"]["b"]["peak_rss"] > 1 << 20


@pytest.mark.usefixtures("demo", "fake")
@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--peers", "genia"], 'There is no peer "genia". Known: fake.'),
        (["--launches", "2"], "2 launches cannot give 80 % confidence in 2 cases"),
        (["--lengths", "0"], "A prompt length cannot be 0"),
    ],
)
def test_requests_that_cannot_be_met(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], text: str
):
    assert harness.main([*QUICK, "--folder", str(tmp_path), *words]) == 2
    assert capsys.readouterr().err.startswith(f"error: {text}")


def test_a_peer_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(peers, "is_installed", lambda name: False)
    with pytest.raises(harness.UsageError, match='"onnxruntime-genai" is not installed'):
        harness._rivals(["genai"])
    with pytest.raises(harness.UsageError, match="No peer is installed"):
        harness._rivals(None)


def test_every_peer_says_what_it_is():
    assert peers.names() == ["genai", "llamacpp", "torch_eager"]
    for name in peers.names():
        module = peers.peer(name)
        assert module.PACKAGE
        assert module.HOW
        assert callable(module.prepare)


def observed(logits: list[Any]) -> Observed:
    case = Case("decode", 0, 10)
    facts = [{"first_token_seconds": 1.0, "load_seconds": 0.5, **({"logits": x} if x else {})}
             for x in logits]  # fmt: skip
    rounds = [[(1.0, 2.0), (1.0, 3.0)], [(1.0, 2.0), (1.0, 2.5)]]
    return Observed({case: rounds}, [(facts[0], facts[1])] * 2, [(1 << 20, 3 << 20)] * 2)


def test_the_table():
    """Twice as fast in the median round, a third of the memory."""
    found = observed([[1.0, 2.0, 4.0], [1.1, 2.0, 3.9]])
    lines = harness.table(found, found.differences(Rule(0.8)), "peer")
    assert harness.ratios(found, Case("decode", 0, 10)) == pytest.approx((2.0, 2.25, 2.875))
    assert lines[1].split()[:9] == ["decode", "at", "0", "10.0", "4.5", "2.25", "2.00", "…", "2.88"]
    assert lines[3].split() == ["peak", "MiB", "1", "3", "3.00"]
    assert lines[4] == "logits correlate by 1.000: one model"
    unknown = observed([[1.0, 2.0], None])
    assert "is not known" in harness.table(unknown, unknown.differences(Rule(0.8)), "peer")[4]


@pytest.mark.slow
def test_a_seeded_checkpoint_and_pytorch(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The whole way, with the tiny shape: both run the same model."""
    pytest.importorskip("transformers")
    saved = tmp_path / "found.json"
    words = [*QUICK, "--folder", str(tmp_path), "--shape", "tiny", "--peers", "torch_eager"]
    assert harness.main([*words, "--json", str(saved)]) == 0
    (found,) = json.loads(saved.read_text())["comparisons"]
    assert found["correlation"] > harness.ALIKE
    assert "one model" in capsys.readouterr().out
