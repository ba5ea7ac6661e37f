"""What `--quant` means, by name."""

from __future__ import annotations

import pytest

from arkinfer.errors import UsageError
from arkinfer.packing import Scheme
from arkinfer.quant import parse_quant
from arkinfer.quant.method import METHODS


@pytest.mark.parametrize("name", METHODS)
def test_a_method_and_its_scheme(name: str) -> None:
    found = parse_quant(f"int4-{name}-g64-asym")
    assert found.method == METHODS[name]
    assert found.linear == Scheme(4, 64, "zero")
    assert found.embedding == Scheme(8, 64)
    assert found.name == f"int4-{name}-g64-asym"


def test_what_methods_are_made_of() -> None:
    made = {name: (m.feedback, m.smooth, m.skip) for name, m in METHODS.items()}
    assert made == {
        "gptq": (True, False, 0),
        "pgptq": (True, False, 4),
        "awq": (False, True, 0),
        "spgptq": (True, True, 4),
    }


def test_without_data() -> None:
    for short, long in (("int4-g32-asym", "int4-rtn-g32-asym"), ("int8-row", "int8-rtn-row")):
        assert parse_quant(long).linear == parse_quant(short).linear
        assert parse_quant(long).method is parse_quant(short).method is None


def test_stored_in_the_order_of_importance() -> None:
    found = parse_quant("int4-gptq-g128-actorder")
    assert found.linear == Scheme(4, 128, act_order=True)
    assert found.method is not None
    assert found.method.act_order
    assert not found.method.static_groups
    whole_rows = parse_quant("int4-gptq-row-actorder")  # one group has no order
    assert whole_rows.linear == Scheme(4, 0)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("int4-gtpq-g128", "int4-gptq-g128"),
        ("int4-gptq-g127", "int4-gptq-g128"),
        ("int4-gptq", "int4-gptq-g128"),
        ("int4-awq-g128-actorder", "int4-awq-g128"),
        ("int4-rtn-g128-actorder", "int4-rtn-g128"),
        ("int3-gptq-g128", "int8-gptq-g128"),
        ("int4-g128-actorder", "int4-g128"),
    ],
)
def test_near_misses_get_a_hint(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_quant(name)
    assert caught.value.what == f'There is no quantization "{name}"'
    assert caught.value.fix.startswith(f'Did you mean "{hint}"? Known: none, ternary, int4, int8, ')
    assert caught.value.fix.endswith("as in int4-gptq-g128: rtn, gptq, pgptq, awq, spgptq")


@pytest.mark.parametrize("bits", [4, 8])
def test_a_short_name_for_the_embedding_is_the_scheme_of_its_linears(bits: int) -> None:
    assert parse_quant("int4", f"int{bits}").embedding == Scheme(bits, 128)
