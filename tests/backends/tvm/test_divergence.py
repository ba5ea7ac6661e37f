"""The packaged model and its planted variants on TVM, held against exact arithmetic.

The oracle is the reference backend on the same artifact: what dequantized weights give in float32.
ONNX Runtime, which rounds activations to 8 bits by block as well, is the yardstick beside it.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import arkinfer
from arkinfer.artifact import Artifact, open_artifact
from arkinfer.frontend.hub import demo_checkpoint
from arkinfer.runtime.contract import LoadOptions, State
from arkinfer.runtime.registry import executor
from benchmarks.quantization_quality import planted

pytestmark = pytest.mark.slow

CONTEXT, TOKENS = 320, 300
PARTS = (1, 37, 64, 1, 1, 13, 70, 5, 1, 1, 59, 3, 1, 31, 1, 1, 1, 9)
"""Lengths of steps: prompts, short turns and single tokens, so that each program runs."""
MARGIN = 0.25
"""Logits by which the best token must lead to have to be the same."""

Array = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory):
    """Folders of the demo model, as it is and with each kind of outlier."""

    def make(kind: str) -> str | Path:
        if kind == "plain":
            return "demo"
        return planted(demo_checkpoint(), kind, 0, tmp_path_factory.mktemp(kind) / "checkpoint")

    return make


@pytest.mark.parametrize("kind", ["plain", "hot"])
def test_activations_in_two_digits_lose_next_to_nothing(
    checkpoint, kind: str, tmp_path: Path
) -> None:
    """Caches are in bfloat16 here, which is most of what is left."""
    exact, ours = tmp_path / "exact.ark", tmp_path / "ours.ark"
    options = {"target": "cpu", "quant": "int4", "context": CONTEXT}
    arkinfer.build(checkpoint(kind), output=exact, backend="reference", **options)
    arkinfer.build(checkpoint(kind), output=ours, backend="tvm", activations="int16", **options)
    tokens = text(exact)
    with open_artifact(exact) as artifact:
        expected = run(artifact, "reference", tokens, (TOKENS,))
    with open_artifact(ours) as artifact:
        got = run(artifact, "tvm", tokens, PARTS)
    assert kl(expected, got).mean() <= 5e-5


@pytest.mark.parametrize(
    ("kind", "quant"),
    [
        ("plain", "int4"),
        ("plain", "int8"),
        ("massive", "int4"),
        ("hot", "int4"),
    ],
)
def test_divergence_from_exact_arithmetic(
    checkpoint, kind: str, quant: str, tmp_path: Path
) -> None:
    """Beside hot channels the build finds the products that need 16 bits, and elsewhere none."""
    path = tmp_path / "m.ark"
    backends = ("tvm", "onnxruntime", "reference")
    report = arkinfer.build(checkpoint(kind), "cpu", quant, path, backend=backends, context=CONTEXT)
    assert ("int16" in report.activations["tvm"]) == (kind == "hot")
    with open_artifact(path) as artifact:
        tokens = text(path)
        whole = (TOKENS,)
        expected = run(artifact, "reference", tokens, whole)
        ours = run(artifact, "tvm", tokens, PARTS)
        theirs = run(artifact, "onnxruntime", tokens, whole)
    divergence = kl(expected, ours).mean()
    assert divergence <= 0.002
    assert divergence <= 1.2 * kl(expected, theirs).mean()
    ranked = np.sort(expected, -1)
    clear = ranked[:, -1] - ranked[:, -2] > MARGIN
    assert clear.sum() > TOKENS // 4
    np.testing.assert_array_equal(ours[clear].argmax(-1), expected[clear].argmax(-1))


def text(path: Path) -> npt.NDArray[np.int64]:
    """Tokens of a docstring, which the model knows the manner of."""
    with arkinfer.load(path, backend="reference") as engine:
        ids = engine.tokenizer.encode(arkinfer.build.__doc__ or "")
    assert len(ids) >= TOKENS
    return np.array(ids[:TOKENS])


def run(
    artifact: Artifact, backend: str, tokens: npt.NDArray[np.int64], parts: tuple[int, ...]
) -> Array:
    executable = executor(backend).open(artifact, artifact.sections[backend], LoadOptions(2))
    found = log_probabilities(executable.new_state(CONTEXT), tokens, parts)
    executable.close()
    return found


def log_probabilities(state: State, tokens: npt.NDArray[np.int64], parts: tuple[int, ...]) -> Array:
    """Of every next token, teacher-forced, [tokens, vocabulary]."""
    bounds = np.cumsum((0, *parts))
    assert bounds[-1] == len(tokens)
    steps = [
        state.step(tokens[a:b], rows="all").logits.astype(np.float64) for a, b in pairwise(bounds)
    ]
    logits = np.concatenate(steps)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def kl(expected: Array, got: Array) -> Array:
    return (np.exp(expected) * (expected - got)).sum(-1)
