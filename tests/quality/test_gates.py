"""Which layers are raised so that gates hold, and what is said where none suffice."""

from __future__ import annotations

import pytest

from arkinfer.errors import GateError
from arkinfer.quality.gates import Candidate, Gates, search
from arkinfer.quality.report import LayerError, Quality

OWN = (0.01, 0.05, 0.02, 0.08, 0.03)
"""What each of five layers costs itself: 3, 1, 4, 2, 0 is the order in which they are raised."""
ORDER = tuple(f"model.layers.{i}" for i in (3, 1, 4, 2, 0))


def candidate(raised: tuple[str, ...]) -> Candidate[int]:
    """A model whose divergence is the sum of what its layers cost."""
    own = [0.0 if f"model.layers.{i}" in raised else cost for i, cost in enumerate(OWN)]
    layers = tuple(LayerError(f"model.layers.{i}", e, e) for i, e in enumerate(own))
    kl = sum(own)
    quality = Quality(100, 10.0, 10.0 * (1 + kl), kl, 3 * kl, 1 - kl, layers)
    return Candidate(raised, quality, 1000 + 100 * len(raised), len(raised))


class Maker:
    def __init__(self) -> None:
        self.made: list[int] = []

    def __call__(self, raised: tuple[str, ...]) -> Candidate[int]:
        self.made.append(len(raised))
        return candidate(raised)


def test_what_holds_as_it_is_is_taken() -> None:
    maker = Maker()
    assert search(Gates(max_kl=0.2, max_size=1000), maker).raised == ()
    assert maker.made == [0]


@pytest.mark.parametrize(("most", "count"), [(0.12, 1), (0.07, 2), (0.04, 3), (0.01, 4), (0.0, 5)])
def test_the_fewest_of_the_most_sensitive_layers_are_raised(most: float, count: int) -> None:
    maker = Maker()
    found = search(Gates(max_kl=most), maker)
    assert found.raised == ORDER[:count]
    assert len(maker.made) <= 2 + 3  # none, all, and halving


def test_the_ratio_of_perplexities_is_a_gate_of_its_own() -> None:
    assert search(Gates(max_ppl_ratio=1.07), Maker()).raised == ORDER[:2]


def test_the_size_is_held_while_layers_are_raised() -> None:
    assert search(Gates(max_kl=0.07, max_size=1200), Maker()).made == 2
    with pytest.raises(GateError) as caught:
        search(Gates(max_kl=0.07, max_size=1199), Maker())
    assert caught.value.exit_code == 3
    assert "The build misses its gates. The mean KL is 0.1900, above 0.07" in str(caught.value)
    lines = str(caught.value).splitlines()
    assert "".join(lines[1].split()) == "raisedlayersmeanKL99%KLperplexitybytes"
    assert lines[2].split() == ["0", "0.1900", "0.5700", "1.1900x", "1,000"]
    assert [line.split()[0] for line in lines[2:6]] == ["0", "1", "2", "5"]


def test_what_is_too_large_without_any_raise_is_not_searched() -> None:
    maker = Maker()
    with pytest.raises(GateError, match="The weights take 1,000 bytes, above 999"):
        search(Gates(max_size=999), maker)
    assert maker.made == [0]


def test_gates_that_no_raise_holds() -> None:
    def stubborn(raised: tuple[str, ...]) -> Candidate[int]:
        return candidate(())

    with pytest.raises(GateError, match="Quantize less"):
        search(Gates(max_kl=0.1), stubborn)
    maker = Maker()
    with pytest.raises(GateError):
        search(Gates(max_kl=0.1), maker, can_raise=False)
    assert maker.made == [0]


def test_a_model_that_is_as_it_was_holds_every_gate_of_quality() -> None:
    exact: Candidate[int] = Candidate((), None, 10, 0)
    assert search(Gates(max_kl=0.0, max_ppl_ratio=1.0), lambda raised: exact) is exact


def test_a_divergence_that_is_no_number_holds_no_gate() -> None:
    broken = Quality(10, 10.0, float("nan"), float("nan"), 0.0, 0.0, ())
    assert len(Gates(max_kl=1.0, max_ppl_ratio=2.0).misses(broken, 0)) == 2
