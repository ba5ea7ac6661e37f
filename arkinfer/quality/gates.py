"""What a quantized model may cost, and what to quantize less so that it costs no more.

Knows no backend and no checkpoint: it asks for candidates, and decides by what they measure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from arkinfer.errors import GateError
from arkinfer.quality.report import Quality

T = TypeVar("T")


@dataclass(frozen=True)
class Gates:
    """Limits; None: there is none.

    Attributes:
        max_kl: of the mean divergence from the model as it was, in nats.
        max_ppl_ratio: of the perplexity over that of the model as it was.
        max_size: of the weights, in bytes.
    """

    max_kl: float | None = None
    max_ppl_ratio: float | None = None
    max_size: int | None = None

    def __bool__(self) -> bool:
        return self != Gates()

    def misses(self, quality: Quality | None, size: int) -> list[str]:
        """A clause for every limit that is exceeded; a model without a quality is as it was."""
        found: list[str] = []
        kl = 0.0 if quality is None else quality.mean_kl
        if self.max_kl is not None and not kl <= self.max_kl:
            found.append(f"the mean KL is {kl:.4f}, above {self.max_kl:g}")
        ratio = 1.0 if quality is None else quality.perplexity_ratio
        if self.max_ppl_ratio is not None and not ratio <= self.max_ppl_ratio:
            found.append(
                f"the perplexity is {ratio:.4f} times as high, above {self.max_ppl_ratio:g}"
            )
        if self.max_size is not None and size > self.max_size:
            found.append(f"the weights take {size:,} bytes, above {self.max_size:,}")
        return found


@dataclass(frozen=True)
class Candidate(Generic[T]):
    """One way to quantize the model.

    Attributes:
        raised: paths of the layers that are quantized less.
        quality: what it costs; None: it is as it was.
        size: bytes of its weights.
        made: whatever the caller made it as.
    """

    raised: tuple[str, ...]
    quality: Quality | None
    size: int
    made: T


def search(
    gates: Gates, make: Callable[[tuple[str, ...]], Candidate[T]], *, can_raise: bool = True
) -> Candidate[T]:
    """The candidate that raises the fewest layers and holds the gates.

    Layers are raised in the order of what they cost themselves, the worst one first; how many are
    needed is found by halving.

    Args:
        gates: the limits.
        make: a candidate with these layers raised.
        can_raise: whether layers can be quantized less than the first candidate's.

    Raises:
        GateError: none holds them; the text has a line for every candidate.
    """
    tried = [make(())]
    first = tried[0]
    if not gates.misses(first.quality, first.size):
        return first
    of_quality = replace(gates, max_size=None)
    if can_raise and first.quality is not None and of_quality.misses(first.quality, 0):
        order = [layer.path for layer in first.quality.most_sensitive()]
        tried.append(make(tuple(order)))
        if not of_quality.misses(tried[-1].quality, 0):
            best = _fewest(of_quality, order, make, tried)
            if not gates.misses(best.quality, best.size):
                return best
    raise _failed(gates, tried)


def _fewest(
    gates: Gates,
    order: Sequence[str],
    make: Callable[[tuple[str, ...]], Candidate[T]],
    tried: list[Candidate[T]],
) -> Candidate[T]:
    """Between none, which misses, and all, which holds."""
    misses, holds, best = 0, len(order), tried[-1]
    while holds - misses > 1:
        middle = (misses + holds) // 2
        tried.append(make(tuple(order[:middle])))
        if gates.misses(tried[-1].quality, 0):
            misses = middle
        else:
            holds, best = middle, tried[-1]
    return best


def _failed(gates: Gates, tried: Sequence[Candidate[T]]) -> GateError:
    first = tried[0]
    why = "; ".join(gates.misses(first.quality, first.size))
    return GateError(
        "The build misses its gates",
        f"{why[:1].upper()}{why[1:]}\n{table(tried)}",
        "Quantize less (another --quant, or --embedding), or set gates that such a model can hold",
    )


def table(tried: Sequence[Candidate[T]]) -> str:
    """A line for every candidate, by the number of layers that it raises."""
    lines = [
        f"{'raised layers':>13}  {'mean KL':>8}  {'99 % KL':>8}  {'perplexity':>10}  {'bytes':>14}"
    ]
    for each in sorted(tried, key=lambda candidate: len(candidate.raised)):
        q = each.quality
        kl, p99, ratio = (0.0, 0.0, 1.0) if q is None else (q.mean_kl, q.p99_kl, q.perplexity_ratio)
        lines.append(
            f"{len(each.raised):>13}  {kl:>8.4f}  {p99:>8.4f}  {ratio:>9.4f}x  {each.size:>14,}"
        )
    return "\n".join(lines)
