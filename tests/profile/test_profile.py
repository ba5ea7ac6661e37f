"""How a profile is summed up: which rounds count, what is taken off, what belongs together."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import pytest

from arkinfer.errors import UsageError
from arkinfer.profile.breakdown import breakdown, covering, rates_of
from arkinfer.profile.cost import Cost
from arkinfer.profile.listing import read_listing
from arkinfer.profile.measure import Profile, measure, rounds_within
from arkinfer.profile.roofline import Peaks
from arkinfer.runtime.contract import IntArray, OpTime, Rows, StepOutput, StepTimes

LISTING = read_listing("""\
module
weight @a : f32[4, 4]
func @step(%tokens: i64[T], %rows: i64[R], %k0: cache<f32>[S, 1, 4]) {
  %0 = nn.embedding(%tokens, @a) {scale = 1.0} : f32[T, 4]  // embed
  %1 = nn.linear(%0, @a) : f32[T, 4]  // layers.0.up
  %2 = nn.add(%0, %1) {scale = 1.0} : f32[T, 4]  // layers.0
  %3 = nn.linear(%2, @a) : f32[T, 4]  // layers.1.up
  return logits = %3
}
""")
STEP = 4e-3
"""Seconds that a step without the profiler takes at least."""


@dataclass
class Clockwork:
    """An executable, its state and its profiler, whose kernels take what they are told to.

    Attributes:
        times: of the first step with the profiler, the second …; the last one holds on.
    """

    times: list[StepTimes]
    features: frozenset[str] = frozenset({"times"})
    vocab_size: int = 4
    max_context: int = 64
    chunk: int = 16
    length: int = 0
    capacity: int = 64
    steps: list[tuple[int, int, str, bool]] = field(
        default_factory=list[tuple[int, int, str, bool]]
    )
    finished: bool = False

    def new_state(self, context: int) -> Clockwork:
        return self

    def close(self) -> None: ...

    def step(
        self, tokens: IntArray, *, rows: Rows = "last", taps: tuple[str, ...] = ()
    ) -> StepOutput:
        time.sleep(STEP)
        return self.note(tokens, rows, timed=False)

    def note(self, tokens: IntArray, rows: Rows, *, timed: bool) -> StepOutput:
        self.steps.append((self.length, len(tokens), rows, timed))
        self.length += len(tokens)
        return StepOutput(np.zeros((1, 4), np.float32))

    def truncate(self, length: int) -> None:
        self.length = length

    def profiler(self) -> Gauge:
        return Gauge(self)


@dataclass
class Gauge:
    owner: Clockwork
    count: int = 0

    def step(self, tokens: IntArray, *, rows: Rows = "last") -> StepOutput:
        self.count += 1
        return self.owner.note(tokens, rows, timed=True)

    def finish(self) -> list[StepTimes]:
        self.owner.finished = True
        times = self.owner.times
        return [times[min(i, len(times) - 1)] for i in range(self.count)]


def ops(*seconds: float, measuring: float = 0.0) -> tuple[OpTime, ...]:
    kernels = (("E", ("0",)), ("M", ("1",)), ("A", ("2", "alien")), ("M", ("3",)))
    pairs = zip(kernels, seconds, strict=True)
    return tuple(OpTime(kernel, values, s, measuring) for (kernel, values), s in pairs)


def profile(times: list[StepTimes], rounds: int = 4, tokens: int = 1, depth: int = 0) -> Profile:
    return measure(Clockwork(times), LISTING, {}, depth=depth, tokens=tokens, rounds=rounds)


def test_the_fastest_quarter_of_the_rounds_counts():
    warm = StepTimes(ops(9, 9, 9, 9), 99)
    slow = StepTimes(ops(1e-3, 9e-3, 1e-3, 1e-3), 20e-3)
    fast = StepTimes(ops(1e-3, 2e-3, 0.5e-3, 0.25e-3), 4e-3)
    found = profile([warm, slow, fast, slow, slow])
    assert [kernel.seconds for kernel in found.kernels] == [1e-3, 2e-3, 0.5e-3, 0.25e-3]
    assert (found.seconds, len(found.rounds)) == (4e-3, 4)
    assert found.outside == pytest.approx(0.25e-3)
    assert STEP <= found.step < 10 * STEP
    assert found.agreement == pytest.approx(4e-3 / found.step)


def test_the_cost_of_measuring_is_fitted_to_the_step_within_a_factor_of_two():
    for excess, factor in ((3e-3, None), (100e-3, 2.0), (-STEP, 0.5)):
        said = ops(1e-3, 2e-3, 1e-3, 1e-3, measuring=0.5e-3)
        found = profile([StepTimes(said, STEP + excess, 2.5e-3)])
        expected = (STEP + excess - found.step) / 2.5e-3 if factor is None else factor
        assert found.measuring == pytest.approx(expected * 2.5e-3)
        assert found.expected == pytest.approx(2.5e-3)
        assert found.kernels[1].seconds == pytest.approx(2e-3 - expected * 0.5e-3)
        assert found.stated == pytest.approx(5e-3)
        assert (abs(found.agreement - 1) < 0.01) == (factor is None)


def test_kernels_of_the_same_values_are_one_and_unknown_ones_stay():
    times = (
        OpTime("Gather", ("0",), 1e-3), OpTime("Scale", ("0",), 1e-3), OpTime("Odd", (), 2e-3),
        OpTime("Fused", ("2", "1"), 1e-3),
    )  # fmt: skip
    found = profile([StepTimes(times, 5e-3)])
    embedding, odd, fused = found.kernels
    assert (embedding.names, embedding.ops, embedding.seconds) == (
        ("Gather", "Scale"), ("nn.embedding",), 2e-3
    )  # fmt: skip
    assert (odd.names, odd.ops, odd.path, odd.cost) == (("Odd",), (), "", None)
    assert (fused.ops, fused.path) == (("nn.linear", "nn.add"), "layers.0")
    assert fused.cost == Cost(64 + 16 + 16, 2 * 16)
    assert [row.op for row in breakdown(found, "op")] == ["nn.embedding", "?", "nn.linear + nn.add"]


def test_a_prompt_in_chunks_is_one_step():
    works = Clockwork([StepTimes(ops(1e-3, 1e-3, 1e-3, 1e-3), 5e-3)])
    found = measure(works, LISTING, {}, depth=20, tokens=40, rounds=1)
    assert works.finished
    before = [(0, 16, "none", True), (16, 4, "none", True)]
    chunks = [(20, 16, "none"), (36, 16, "none"), (52, 8, "last")]
    expected = [(*chunk, timed) for timed in (True, True, False, False) for chunk in chunks]
    assert works.steps == before + expected
    assert found.kernels[0].seconds == pytest.approx(3e-3)
    assert found.kernels[1].cost is not None
    assert found.kernels[1].cost.flops == 2 * 16 * 40


def test_an_interrupted_profile_is_finished(monkeypatch: pytest.MonkeyPatch):
    works = Clockwork([StepTimes(ops(1, 1, 1, 1), 5)])

    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(works, LISTING, {}, depth=0, tokens=1, progress=interrupted, rounds=3)
    assert works.finished


def test_a_backend_that_tells_nothing():
    works = Clockwork([], features=frozenset({"values"}))
    with pytest.raises(UsageError, match=r"cannot be profiled\. Its backend does not tell"):
        measure(works, LISTING, {}, depth=0, tokens=1)


def test_rounds_that_a_second_holds():
    assert [rounds_within(s) for s in (1e-9, 0.02, 3.0)] == [200, 50, 5]


def test_rows_by_path_layer_and_kernel():
    found = profile([StepTimes(ops(1e-3, 2e-3, 0.5e-3, 4e-3), 9e-3)])
    assert [(r.path, r.op, r.count, r.seconds) for r in breakdown(found, "path")] == [
        ("layers.*.up", "nn.linear", 2, 6e-3), ("embed", "nn.embedding", 1, 1e-3),
        ("layers.*", "nn.add", 1, 0.5e-3),
    ]  # fmt: skip
    assert [(r.path, r.seconds) for r in breakdown(found, "layer")] == [
        ("embed", 1e-3), ("layers.0", 2.5e-3), ("layers.1", 4e-3)
    ]  # fmt: skip
    kernels = breakdown(found, "kernel")
    assert [row.path for row in kernels] == ["embed", "layers.0.up", "layers.0", "layers.1.up"]
    assert [row.path for row in covering(kernels, 0.9)] == ["layers.1.up", "layers.0.up", "embed"]


def test_rates_are_held_against_the_peaks():
    product = breakdown(profile([StepTimes(ops(1e-3, 2e-3, 0.5e-3, 4e-3), 9e-3)]), "kernel")[1]
    assert product.cost == Cost(64 + 16 + 16, 2 * 16)
    rates = rates_of(product, Peaks(1, bandwidth=96e3, flops=32e3))
    assert rates is not None
    assert (rates.bandwidth, rates.of_bandwidth) == (pytest.approx(48e3), pytest.approx(0.5))
    assert (rates.flops, rates.of_flops, rates.bound) == (
        pytest.approx(16e3), pytest.approx(0.5), "memory"
    )  # fmt: skip
    arithmetic = rates_of(product, Peaks(1, bandwidth=96e3, flops=16e3))
    assert arithmetic is not None
    assert arithmetic.bound == "arithmetic"
    unknown = rates_of(product, Peaks(1))
    assert unknown is not None
    assert (unknown.of_bandwidth, unknown.of_flops, unknown.bound) == (None, None, None)
