"""Which calls run side by side: none that needs, or spoils, what another one makes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from arkinfer_tvm.phases import Phases
from arkinfer_tvm.program import Operand

A, B, C = (Operand("scratch", number) for number in range(3))
CACHE, WEIGHT, DIM, OWN = (Operand("cache", 0), Operand("weight", "w"), Operand("dim", 0),
                           Operand("own", 0))  # fmt: skip

Calls = Sequence[tuple[list[Operand], list[Operand]]]
"""What each call reads, and what it writes."""


def phases(calls: Calls) -> list[int]:
    made = Phases()
    return [made.add([*read, *written], written) for read, written in calls]


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        pytest.param([([A], [B]), ([B], [C])], [0, 1], id="needs what the first makes"),
        pytest.param([([A], [B]), ([C], [A])], [0, 1], id="spoils what the first reads"),
        pytest.param([([A], [C]), ([B], [C])], [0, 1], id="writes where the first does"),
        pytest.param([([A], [B]), ([A], [C])], [0, 0], id="both read the same"),
        pytest.param([([A], [CACHE]), ([B], [C])], [0, 0], id="nothing in common"),
        pytest.param([([A], [CACHE]), ([B, CACHE], [C])], [0, 1], id="a cache that was written"),
        pytest.param(
            [([A, WEIGHT, DIM, OWN], [B]), ([A, WEIGHT, DIM, OWN], [C])], [0, 0],
            id="weights, sizes and own memory",
        ),
        pytest.param(
            [([], [A]), ([], [B]), ([A], [C]), ([B], [CACHE])], [0, 0, 1, 1],
            id="a phase forgets the one before",
        ),
    ],
)  # fmt: skip
def test_of_calls(calls: Calls, expected: list[int]) -> None:
    assert phases(calls) == expected
