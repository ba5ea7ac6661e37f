"""How products are cut: what the model says for known processors, and that it always fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arkinfer.packing import Scheme, parse_scheme
from arkinfer_tvm.cost import MOST_BLOCKS, SIZES, Tiling, candidates, few_rows, loads, tiling
from arkinfer_tvm.isa import ISAS
from arkinfer_tvm.layout import Stream


def stream(scheme: str, rows: int = 1024, columns: int = 1024, arch: str = "x86_64") -> Stream:
    return Stream.of(parse_scheme(scheme), (rows, columns), arch)


@pytest.mark.parametrize(
    ("isa", "scheme", "expected"),
    [
        ("x86-64-v4-vnni", "int4-g128", Tiling(4, 4, (4, 4, 4, 2))),
        ("x86-64-v3", "int4-g128", Tiling(4, 1, (4, 2, 1, 1))),
        ("x86-64-v3", "int4-g32", Tiling(4, 1, (4, 2, 1, 1))),  # ends of groups are dear
        ("dotprod", "int4-g128", Tiling(4, 1, (4, 2, 1, 1))),
    ],
)
def test_known(isa: str, scheme: str, expected: Tiling) -> None:
    """What was measured as the best one of its neighbours, on ARM what was chosen by hand."""
    assert tiling(ISAS[isa], stream(scheme)) == expected


def test_few_rows() -> None:
    assert {name: few_rows(isa) for name, isa in ISAS.items() if name != "neon"} == {
        "x86-64-v3": 4, "avx-vnni": 4, "x86-64-v4-vnni": 8, "x86-64-v4-vnni-bf16": 8,
        "dotprod": 4, "i8mm": 4,
    }  # fmt: skip


def test_unpacked_codes_fit_the_second_cache() -> None:
    """4 blocks of 16,384 inputs are a mebibyte, all of it; codes of 8 bits are not unpacked."""
    isa = ISAS["x86-64-v4-vnni"]
    assert tiling(isa, stream("int4-g128", columns=8192)).blocks == 4
    assert tiling(isa, stream("int4-g128", columns=16384)).blocks == 2
    assert tiling(isa, stream("int8-g128", columns=16384)).blocks == 4


def test_loads() -> None:
    """Of 4 rows and 2 blocks in registers of half a block: 4 vectors and 4 numbers for 16 dots."""
    assert loads(ISAS["x86-64-v3"], 4, 2) == 8 / 16


schemes = st.builds(
    Scheme,
    bits=st.sampled_from((2, 3, 4, 5, 6, 8)),
    group=st.sampled_from((16, 32, 48, 64, 128, 256)),
    offset=st.sampled_from(("none", "zero", "min")),
)


@given(
    scheme=schemes, rows=st.integers(1, 4096), groups=st.integers(1, 40),
    isa=st.sampled_from(sorted(ISAS)), most=st.sampled_from((1, 2, 8, 128)),
    digits=st.sampled_from((1, 2)),
)  # fmt: skip
def test_every_candidate_can_be_built(
    scheme: Scheme, rows: int, groups: int, isa: str, most: int, digits: int
) -> None:
    known = ISAS[isa]
    columns = groups * scheme.group
    matrix = Stream.of(scheme, (rows, columns), known.arch)
    found = candidates(known, matrix, most * digits, digits)
    assert found[0] == tiling(known, matrix)
    assert len(set(found)) == len(found) <= 9
    for each in found:
        assert each.rows in SIZES
        assert each.blocks <= MOST_BLOCKS
        assert len(each.few) == len(SIZES)
        assert all(matrix.blocks % blocks == 0 for blocks in (each.blocks, *each.few))
        sums = known.per_block * each.rows * each.blocks
        assert sums < known.registers or (each.rows, each.blocks) == (1, 1)


def test_candidates_differ_where_the_product_is() -> None:
    isa, matrix = ISAS["x86-64-v4-vnni"], stream("int4-g128")
    assert [each.few[0] for each in candidates(isa, matrix, 1)] == [4, 2]
    assert [each.few[3] for each in candidates(isa, matrix, 8)] == [2, 1, 4]
    many = [(each.rows, each.blocks) for each in candidates(isa, matrix, 128)]
    assert many[0] == (4, 4)
    assert set(many[1:]) == {(2, 4), (4, 2), (8, 2), (2, 2)}
