"""The packaged model by the real executor on a fake device: as the reference says, to its end."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import arkinfer
from arkinfer.artifact import open_artifact
from arkinfer.errors import UsageError
from arkinfer.runtime.contract import LoadOptions, State
from arkinfer_ref.executor import ReferenceExecutor
from tests.backends.trt.fake import TensorRTOnFake

pytestmark = pytest.mark.slow

CONTEXT, TOKENS, CHUNK = 310, 300, 64
PARTS = (1, 37, 64, 1, 1, 13, 64, 5, 1, 1, 59, 3, 1, 31, 1, 1, 1, 7)
"""Lengths of steps, one after the other: prompts in chunks of odd sizes, and single tokens."""

Array = npt.NDArray[np.float64]


@pytest.fixture(scope="module", params=["int4", "none"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("divergence")
    arkinfer.build(
        "demo", "jetson-orin", request.param, folder / "m.ark", dtype="fp16",
        backend=("tensorrt", "reference"), context=CONTEXT, chunk=CHUNK,
    )  # fmt: skip
    return folder / "m.ark"


def text(path: Path) -> npt.NDArray[np.int64]:
    """Tokens of a docstring, which the model knows the manner of."""
    with arkinfer.load(path, backend="reference", executor=ReferenceExecutor()) as engine:
        ids = engine.tokenizer.encode(arkinfer.build.__doc__ or "")
    assert len(ids) >= TOKENS
    return np.array(ids[:TOKENS])


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


def whole(count: int) -> tuple[int, ...]:
    return (*[CHUNK] * (count // CHUNK), count % CHUNK)


@pytest.mark.parametrize("network", ["gemv", "native"])
def test_divergence_to_the_reference(built: Path, network: str, tmp_path: Path) -> None:
    """In float16, over 300 tokens, to ten tokens before the end of the caches, and beyond it."""
    assert sum(PARTS) == 292
    tokens = text(built)
    with open_artifact(built) as artifact:
        section = artifact.sections["tensorrt"]
        if network not in section.config["networks"]:
            pytest.skip("nothing is in int4, so that there is one network")
        reference = ReferenceExecutor().open(
            artifact, artifact.sections["reference"], LoadOptions()
        )
        options = LoadOptions(cache=tmp_path / "cache", network=network)
        board = TensorRTOnFake().open(artifact, section, options)
        expected = log_probabilities(reference.new_state(CONTEXT), tokens, whole(TOKENS))
        state = board.new_state(CONTEXT)
        got = log_probabilities(state, tokens, (*PARTS, 1, 1, 1, 5))
        divergence = (np.exp(expected) * (expected - got)).sum(-1)
        assert divergence.mean() <= 2e-5, "1e-4 is what we promise, and 3e-6 was measured"
        assert divergence.max() <= 1e-3
        state.step(tokens[:9])
        with pytest.raises(UsageError, match="310"):
            state.step(tokens[:2])
        state.step(tokens[:1])
        with pytest.raises(UsageError, match="310"):
            state.step(tokens[:1])
        state.truncate(TOKENS)
        state.step(tokens[:10])
        board.close()
