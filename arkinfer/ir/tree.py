"""A step whose tokens are a tree, not a line: which ops of a step look at other tokens, and how.

The same function `step` serves: positions are other ones, and attention sees other rows. Everything
else works on each token alone. Knows no cache of any executor and no parents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from arkinfer.ir.core import Attribute, Function, Node
from arkinfer.ir.ops.attention import Dense
from arkinfer.ir.types import Sym, dim

POSITIONS, ATTENTION = "tensor.arange", Dense.name

ALONE = ("tensor.reshape", "tensor.slice", "tensor.take")
"""Ops of the family `tensor` that a legal step may have beside; they mix no tokens."""

FAMILIES = ("nn", "quant", "cache")
"""Their ops work on each token alone."""


@dataclass(frozen=True)
class Tree:
    """What a step has to know of its T tokens.

    Attributes:
        positions: int64 [T], in the sequence.
        seen: bool [T, T]; whether the token of a row attends to that of a column. Every token
            attends to all that the caches held before, and to itself.
    """

    positions: npt.NDArray[np.int64]
    seen: npt.NDArray[np.bool_]


def obstacle(function: Function) -> str:
    """What keeps a function from running a tree, as a clause; "" where nothing does.

    It may look at other tokens by dense attention alone, and at positions from `S` to `S + T`.
    """
    for node in function.nodes:
        if node.op == POSITIONS and not _is_positions(node):
            start, stop = (node.attributes[name] for name in ("start", "stop"))
            return f"it counts from {start} to {stop}, and not over the new positions"
        known = node.op in (POSITIONS, ATTENTION, *ALONE) or node.op.split(".")[0] in FAMILIES
        if not known:
            return f"{node.op} may look at other tokens"
    return ""


def _is_positions(node: Node) -> bool:
    wanted: dict[str, Attribute | Sym] = {"start": dim("S"), "stop": dim("S + T")}
    return dict(node.attributes) == wanted


def run_in_tree(
    op: str, operands: Sequence[Any], attributes: Mapping[str, Any], tree: Tree
) -> list[npt.NDArray[Any]] | None:
    """The results of an op that looks at other tokens; None: it is not one of these."""
    if op == POSITIONS:
        return [tree.positions]
    if op != ATTENTION:
        return None
    fresh, length = len(operands[0]), len(operands[1])
    before = np.ones((fresh, length - fresh), np.bool_)
    return [Dense.over(operands, attributes, np.concatenate((before, tree.seen), axis=1))]
