"""Who runs which node, and what is said where the answer is slow or no."""

from __future__ import annotations

import pytest

from arkinfer import ir
from arkinfer.backend import SectionWriter, Support
from arkinfer.backend.placement import place
from arkinfer.errors import UnsupportedError
from arkinfer.frontend.dense import dense_module
from arkinfer.targets import Target, load_target
from arkinfer.testing import family


class Picky:
    """Answers from a table; everything else is fast."""

    name = "picky"
    legalizations: tuple[str, ...] = ()
    activations: tuple[str, ...] = ("f32",)

    def __init__(self, **answers: Support) -> None:
        self.answers = answers

    def supports(self, node: ir.Node, target: Target) -> Support:
        return self.answers.get(node.op.replace(".", "_"), Support.fast())

    def compile(self, module: ir.Module, target: Target, out: SectionWriter) -> None:
        raise AssertionError("placement compiles nothing")


@pytest.fixture(scope="module")
def module() -> ir.Module:
    return dense_module(family("tied"))


def test_all_fast(module: ir.Module) -> None:
    found = place(module, Picky(), load_target("cpu"))
    assert sum(found.ops.values()) == len(list(module.nodes()))
    assert found.slow_lines() == []


def test_slow_paths_are_told_with_their_places(module: ir.Module) -> None:
    found = place(module, Picky(nn_silu_mul=Support.slow("no kernel")), load_target("cpu"))
    (line,) = found.slow_lines()
    count = found.ops["nn.silu_mul"]
    more = f" and {count - 1} more" if count > 1 else ""
    expected = f"nn.silu_mul takes a slow path on picky: no kernel (model.layers.0.mlp{more})"
    assert line == expected


def test_nodes_without_a_home_fail_the_build(module: ir.Module) -> None:
    picky = Picky(nn_rope=Support.no("it cannot turn"), nn_add=Support.no("it cannot add"))
    with pytest.raises(UnsupportedError) as error:
        place(module, picky, load_target("cpu"))
    text = str(error.value)
    assert text.startswith("nn.rope at model.layers.0.self_attn and ")
    assert "has no home on picky for cpu. it cannot turn; 1 more kind" in text
    assert text.endswith("Choose another quantization, or another backend with --backend.")
