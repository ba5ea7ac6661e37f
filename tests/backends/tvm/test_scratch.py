"""Placement of values in scratch memory: nothing that lives together may overlap."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from arkinfer_tvm.scratch import ALIGNMENT, Lifetime, place

lifetimes = st.lists(
    st.builds(
        lambda size, first, span: Lifetime(size, first, first + span),
        st.integers(0, 1000),
        st.integers(0, 20),
        st.integers(0, 6),
    ),
    max_size=30,
)


@given(lifetimes)
def test_values_that_live_together_share_no_byte(values: list[Lifetime]) -> None:
    offsets, total = place(values)
    for i, a in enumerate(values):
        assert offsets[i] % ALIGNMENT == 0
        assert offsets[i] + a.size <= total
        for j, b in enumerate(values[:i]):
            together = a.first <= b.last and b.first <= a.last
            apart = offsets[i] + a.size <= offsets[j] or offsets[j] + b.size <= offsets[i]
            assert apart or not together or 0 in (a.size, b.size)


def test_a_chain_needs_two_places() -> None:
    """Each value is made from the one before: the third takes the place of the first."""
    values = [Lifetime(256, step, step + 1) for step in range(10)]
    offsets, total = place(values)
    assert total == 512
    assert offsets == [0, 256] * 5
