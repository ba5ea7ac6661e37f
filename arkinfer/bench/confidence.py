"""Confidence intervals that hold for any noise: exact rank tests. Knows no benchmark.

Timings are no bell curves: other programs disturb them in bursts, and where a process finds its
pages moves all that it does by some per cent. So a process is one observation, whatever number of
times it was asked, and the intervals are those of rank tests, which assume no distribution: if two
things are the same, each sign (or each arrangement) of the observations is equally likely, and that
alone bounds the false alarms.

Sources: Hollander, Wolfe and Chicken, Nonparametric Statistical Methods, 3rd edition, sections 3.2,
3.3 (signed ranks, paired) and 4.2, 4.3 (rank sums, unpaired); Hodges and Lehmann, 1963.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its confidence interval; infinite ends: too few observations."""

    middle: float
    low: float
    high: float


def paired(differences: Sequence[float], alpha: float) -> Interval:
    """The centre of the differences of pairs, by signed ranks.

    Args:
        differences: one for each independent pair, e.g. log speed ratios.
        alpha: how often the interval may miss the true centre, in the long run.
    """
    values = np.asarray(differences, np.float64)
    first, second = np.triu_indices(len(values))
    return _ordered((values[first] + values[second]) / 2, signed_rank_chances(len(values)), alpha)


def unpaired(a: Sequence[float], b: Sequence[float], alpha: float) -> Interval:
    """By how much `b` lies above `a`, by rank sums; the two were not observed together.

    Args:
        a: independent observations.
        b: others.
        alpha: see `paired`.
    """
    shifts = np.subtract.outer(np.asarray(b, np.float64), np.asarray(a, np.float64)).ravel()
    return _ordered(shifts, rank_sum_chances(len(a), len(b)), alpha)


def signed_rank_chances(count: int) -> Floats:
    """The probability of each sum of positive ranks, [n (n + 1) / 2 + 1], if signs are random."""
    chances = np.ones(1)
    for rank in range(1, count + 1):
        longer = np.zeros(len(chances) + rank)
        longer[: len(chances)] += chances / 2
        longer[rank:] += chances / 2
        chances = longer
    return chances


def rank_sum_chances(first: int, second: int) -> Floats:
    """The probability of each number of pairs in which b is above a, [n m + 1]."""
    row = [np.ones(1)] * (second + 1)
    for i in range(1, first + 1):
        above, row = row, [np.ones(1)]
        for j in range(1, second + 1):
            # The largest of all is either a b, above all i of the a's, or an a.
            counts = np.zeros(i * j + 1)
            counts[i:] += row[j - 1]
            counts[: (i - 1) * j + 1] += above[j]
            row.append(counts)
    counts = row[second]
    return counts / counts.sum()


def pairs_needed(alpha: float) -> int:
    """The fewest pairs with which `paired` can give a finite interval."""
    return max(1, math.ceil(1 - math.log2(alpha) - 1e-9))


def launches_needed(alpha: float) -> int:
    """The fewest observations on either side with which `unpaired` can."""
    count = 1
    while 2 / math.comb(2 * count, count) > alpha:
        count += 1
    return count


def _ordered(values: Floats, chances: Floats, alpha: float) -> Interval:
    """The interval that a test's distribution cuts from all its elementary estimates."""
    if not len(values):
        return Interval(math.nan, -math.inf, math.inf)
    ranked = np.sort(values)
    middle = float(np.median(ranked))
    cut = int(np.searchsorted(np.cumsum(chances), alpha / 2 * (1 + 1e-9), side="right"))
    if cut == 0:  # even the most extreme outcome is more likely than that
        return Interval(middle, -math.inf, math.inf)
    return Interval(middle, float(ranked[cut - 1]), float(ranked[-cut]))
