"""Timings as machines give them: bursts, slow drifts, and a speed of its own for each process."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from arkinfer.bench.cases import Case
from arkinfer.bench.compare import Observed, Pairs

CASES = (Case("prefill", 0, 128), Case("decode", 0, 16))


@dataclass(frozen=True)
class Noise:
    """Relative sizes.

    Attributes:
        process: where a process finds its pages moves its speed by this much, up or not.
        jitter: of each sample, a bell curve.
        drift: how far the machine's speed wanders from sample to sample.
        bursts: the share of samples that another program disturbs, for 1.7 times the time or more.
    """

    process: float = 0.04
    jitter: float = 0.02
    drift: float = 0.01
    bursts: float = 0.05


QUIET = Noise()
BUSY = Noise(drift=0.1, bursts=0.4)


def observed(
    random: np.random.Generator, noise: Noise, speed: float = 1.0, launches: int = 10
) -> Observed:
    """A comparison of two engines of which B has `speed` times the speed of A."""
    return Observed(
        {case: [_launch(random, noise, speed) for _ in range(launches)] for case in CASES}
    )


def _launch(random: np.random.Generator, noise: Noise, speed: float, rounds: int = 12) -> Pairs:
    drift, wander = 0.0, np.zeros(2 * rounds)
    for index, step in enumerate(random.normal(0, noise.drift, 2 * rounds)):
        drift = 0.9 * drift + step
        wander[index] = drift
    logs = wander + random.normal(0, noise.jitter, 2 * rounds)
    logs += (random.random(2 * rounds) < noise.bursts) * random.exponential(0.7, 2 * rounds)
    turns = logs.reshape(rounds, 2)
    a_first = random.random(rounds) < 0.5
    a = np.where(a_first, turns[:, 0], turns[:, 1])
    b = np.where(a_first, turns[:, 1], turns[:, 0]) - np.log(speed)
    places = random.choice([0.0, noise.process], 2) + random.normal(0, noise.process / 4, 2)
    return list(zip(0.01 * np.exp(a + places[0]), 0.01 * np.exp(b + places[1]), strict=True))
