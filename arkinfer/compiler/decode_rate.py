"""How fast a device decodes at most: as fast as its memory gives what a token reads.

Knows no backend and no kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

DEPTHS = (0, 4096, 32768, 131072)
"""Tokens in the cache for which a plan says it, beside the full context."""


@dataclass(frozen=True)
class DecodeRate:
    """An upper bound.

    Attributes:
        depth: tokens in the cache.
        tokens_per_second: one sequence at a time.
    """

    depth: int
    tokens_per_second: float


def decode_rates(
    bandwidth: float, weights: int, per_token: int, context: int
) -> tuple[DecodeRate, ...]:
    """The roofline at several depths; nothing where the bandwidth is not known.

    A token reads the weights of all products once, and the whole cache.
    Source: Williams et al. 2009 (roofline), with arithmetic left out: decoding multiplies twice for
    each weight that it reads.

    Args:
        bandwidth: bytes per second; 0: not known.
        weights: bytes of them.
        per_token: bytes of the cache for each token in it.
        context: the most tokens in the cache.
    """
    if not bandwidth or not weights:
        return ()
    depths = [depth for depth in DEPTHS if depth < context] + [context]
    return tuple(
        DecodeRate(depth, round(bandwidth / (weights + per_token * depth), 1)) for depth in depths
    )
