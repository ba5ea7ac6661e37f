"""The packaged demo-ternary.ark: small, ternary, and almost as good as the model it learnt from."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

import arkinfer
from arkinfer import ir
from arkinfer.artifact import open_artifact, verify_artifact
from arkinfer.runtime.perplexity import score_text

DEMO = Path(str(files("arkinfer"))) / "demo"
FILE = DEMO / "demo-ternary.ark"


def test_it_is_small_and_sound() -> None:
    assert FILE.stat().st_size <= 3 * 2**20
    verify_artifact(FILE)


def test_every_linear_has_two_bits_and_a_scale_per_row() -> None:
    with open_artifact(FILE) as artifact:
        assert artifact.manifest["quant"] == "ternary"
        assert list(artifact.sections) == ["onnxruntime", "reference"]
        module = ir.parse_module(artifact.read("ir.txt").decode())
    kinds = [n.weights[0].type for n in module.nodes() if n.op == "quant.linear"]
    schemes = [kind.scheme.name for kind in kinds if isinstance(kind, ir.QuantizedType)]
    assert schemes == ["int2-row"] * 40 + ["int4-g32-asym"]


def test_it_answers() -> None:
    with arkinfer.load("demo-ternary", threads=2) as engine:
        question = "In a few words, what is the json module good for?"
        answer = "".join(engine.chat(question, thinking=False, max_new_tokens=60))
    assert "json" in answer.lower()
    assert "module" in answer


@pytest.mark.slow
def test_perplexity_is_near_the_teachers() -> None:
    """On the whole held-out text, in windows of 1,024."""
    text = (DEMO / "heldout.txt").read_text(encoding="utf-8")
    found: dict[str, float] = {}
    for name in ("demo", "demo-ternary"):
        with arkinfer.load(name, threads=2) as engine:
            ids = engine.tokenizer.encode(text)
            bos = engine.tokenizer.bos
            scored = score_text(engine.executable, ids[1:], bos=bos, window=1024, stride=1024)
            found[name] = scored.perplexity
    assert found["demo-ternary"] < 1.35 * found["demo"]
