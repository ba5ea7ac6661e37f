"""The baseline that the demo model is measured against, and the measures themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from arkinfer.models.minicpm import CausalLM
from recipes.demo import probes
from recipes.demo.evaluate import bigram_perplexity, overlap


def test_a_fixed_cycle_is_no_surprise_to_bigrams() -> None:
    cycle = np.tile(np.arange(8), 500)
    found = bigram_perplexity(cycle, cycle[:100], 8)
    # The best share on the grid is 0.95; the rest goes to the uniform unigram.
    assert found["bigram_share"] == 0.95
    assert found["perplexity"] == pytest.approx(1 / (0.95 + 0.05 / 8), abs=1e-3)


def test_independent_tokens_are_as_surprising_as_their_number() -> None:
    rng = np.random.default_rng(0)
    found = bigram_perplexity(rng.integers(0, 16, 200_000), rng.integers(0, 16, 20_000), 16)
    assert found["perplexity"] == pytest.approx(16, rel=0.01)


def test_unseen_tokens_have_a_finite_perplexity() -> None:
    found = bigram_perplexity(np.zeros(100, np.int64), np.ones(10, np.int64), 4)
    assert 10 < found["perplexity"] < 1000


def test_perplexity_of_equal_logits_is_the_vocabulary() -> None:
    class Uniform(CausalLM):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)

        def model(self, tokens: torch.Tensor, *_: object) -> torch.Tensor:
            return torch.zeros(*tokens.shape, 4)

        def head(self, hidden: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*hidden.shape[:-1], 300)

    assert math.isclose(probes.perplexity(Uniform(), [5] * 100, 32), 300, rel_tol=1e-5)


@pytest.mark.parametrize(
    ("answer", "share"), [("a b c d", 1.0), ("A B", 0.5), ("x", 0.0), ("d c b a a", 1.0)]
)
def test_overlap(answer: str, share: float) -> None:
    assert overlap(answer, "a b c d") == share
