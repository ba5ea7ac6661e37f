"""Groups the kernels of a profile, and holds them against what the machine can do at most.

Knows neither how a profile nor how a peak is measured.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from arkinfer.profile.cost import Cost
from arkinfer.profile.measure import Kernel, Profile
from arkinfer.profile.roofline import Peaks

By: TypeAlias = Literal["path", "op", "layer", "kernel"]
"""How kernels are grouped: by torch path and op with all layers together, by op, by layer, or not
at all."""

LEVELS: tuple[By, ...] = ("path", "op", "layer", "kernel")

UNKNOWN = "?"
"""The op of kernels of which the backend cannot tell what they compute."""

_NUMBER = re.compile(r"\.\d+(?=\.|$)")
_LAYER = re.compile(r"(.*?\.\d+)(?:\.|$)")


@dataclass(frozen=True)
class Row:
    """Kernels that are shown as one.

    Attributes:
        path: of the torch module, with * for numbers where layers are together; "" for none, and
            where rows are ops.
        op: names of the IR's ops, joined by " + "; "" where rows are layers.
        kernels: as the runtime calls them.
        count: of groups of kernels in it.
        seconds: of a step.
        cost: None: unknown.
    """

    path: str
    op: str
    kernels: tuple[str, ...]
    count: int
    seconds: float
    cost: Cost | None


@dataclass(frozen=True)
class Rates:
    """How fast a row's kernels were, and how near they came to the machine's peaks.

    Attributes:
        bandwidth: bytes per second.
        of_bandwidth: of the measured bandwidth; None: not measured.
        flops: operations per second; None: they do no matrix product and no attention.
        of_flops: of the measured peak in float32; None as before, or not measured.
        bound: what takes longer at the peaks: "memory" or "arithmetic"; None: not measured.
    """

    bandwidth: float
    of_bandwidth: float | None
    flops: float | None
    of_flops: float | None
    bound: Literal["memory", "arithmetic"] | None


def breakdown(profile: Profile, by: By) -> list[Row]:
    """The rows of a profile, the one that takes longest first; layers and kernels in the order in
    which they are executed."""
    groups: dict[tuple[str, str], list[Kernel]] = {}
    for index, kernel in enumerate(profile.kernels):
        op = " + ".join(kernel.ops) or UNKNOWN
        key = {
            "path": (_NUMBER.sub(".*", kernel.path), op),
            "op": ("", op),
            "layer": (layer_of(kernel.path), ""),
            "kernel": (str(index), ""),
        }[by]
        groups.setdefault(key, []).append(kernel)
    rows = [_row(key, kernels, by) for key, kernels in groups.items()]
    return rows if by in ("layer", "kernel") else sorted(rows, key=lambda row: -row.seconds)


def _row(key: tuple[str, str], kernels: Sequence[Kernel], by: By) -> Row:
    costs = [kernel.cost for kernel in kernels]
    known = [cost for cost in costs if cost is not None]
    cost = None
    if len(known) == len(costs):
        cost = Cost(sum(c.bytes for c in known), sum(c.flops for c in known))
    path, op = key
    if by == "kernel":
        path, op = kernels[0].path, " + ".join(kernels[0].ops) or UNKNOWN
    names = tuple(dict.fromkeys(name for kernel in kernels for name in kernel.names))
    return Row(path, op, names, len(kernels), sum(k.seconds for k in kernels), cost)


def layer_of(path: str) -> str:
    """The layer that a torch path lies in; the path itself when there is none.

    >>> layer_of("model.layers.3.mlp.up_proj"), layer_of("lm_head")
    ('model.layers.3', 'lm_head')
    """
    match = _LAYER.match(path)
    return match[1] if match else path


def covering(rows: Sequence[Row], share: float) -> list[Row]:
    """The fewest rows that together take this share of all rows' time, longest first."""
    total = sum(row.seconds for row in rows)
    taken, chosen = 0.0, []
    for row in sorted(rows, key=lambda row: -row.seconds):
        if taken >= share * total:
            break
        chosen.append(row)
        taken += row.seconds
    return chosen


def rates_of(row: Row, peaks: Peaks) -> Rates | None:
    """The rates of a row; None: it took no time, or its cost is unknown."""
    cost = row.cost
    if cost is None or row.seconds <= 0:
        return None
    moved = cost.bytes / row.seconds
    computed = cost.flops / row.seconds if cost.flops else None
    of_bandwidth = moved / peaks.bandwidth if peaks.bandwidth else None
    of_flops = computed / peaks.flops if computed is not None and peaks.flops else None
    bound = None
    if of_bandwidth is not None:
        bound = "memory" if of_bandwidth >= (of_flops or 0.0) else "arithmetic"
    return Rates(moved, of_bandwidth, computed, of_flops, bound)
