"""Traced modules with one thing changed: whatever fuses then, the results stay the mutant's."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from arkinfer import ir
from arkinfer.errors import InternalError
from arkinfer.ir import Module, Node
from arkinfer.ir.types import add_dims
from arkinfer.models.config import ModelConfig
from arkinfer.passes import run_pipeline, standard_pipeline
from arkinfer.testing import family

Traced = Callable[[ModelConfig], Module]
Execute = Callable[..., dict[str, Any]]

OTHER_OPS = {
    "tensor.cos": "tensor.sin",
    "tensor.sin": "tensor.cos",
    "tensor.neg": "tensor.silu",
    "tensor.silu": "tensor.neg",
    "tensor.rsqrt": "tensor.cos",
    "tensor.mul": "tensor.add",
    "tensor.add": "tensor.mul",
}
SEEDS = range(90)


def swap_operands(node: Node, draw: random.Random) -> None:
    node.operands.reverse()


def other_op(node: Node, draw: random.Random) -> None:
    node.op = OTHER_OPS[node.op]


def other_constant(node: Node, draw: random.Random) -> None:
    node.attributes["by"] = draw.choice([0.3, -2.0, 1.0])


def other_range(node: Node, draw: random.Random) -> None:
    shift = draw.choice([-1, 1, 2])
    for key in ("start", "stop"):
        bound = node.attributes[key]
        assert isinstance(bound, int | ir.Sym)
        node.attributes[key] = add_dims(bound, shift)


def other_half(node: Node, draw: random.Random) -> None:
    start, stop = node.attributes["start"], node.attributes["stop"]
    assert isinstance(start, int)
    assert isinstance(stop, int)
    moved = draw.choice([0, stop - start, (stop - start) // 2])
    node.attributes |= {"start": moved, "stop": moved + stop - start}


def other_source(node: Node, draw: random.Random) -> None:
    """Reads what the producer of an operand reads: skips one node, or repeats an operand."""
    index = draw.randrange(len(node.operands))
    operand = node.operands[index]
    if isinstance(operand, ir.Value) and operand.producer and draw.random() < 0.7:
        node.operands[index] = draw.choice(operand.producer.operands)
    else:
        node.operands[index] = node.operands[-1 - index]


def mutant(module: Module, seed: int) -> tuple[Module, str]:
    """The module with one node changed so that it is still well-formed."""
    draw = random.Random(seed)
    text = ir.print_module(module)
    while True:
        changed = ir.parse_module(text)
        node = draw.choice(list(changed.nodes()))
        before = f"{node.op} {node.attributes} at {node.loc}"
        ways = [swap_operands, other_source] if node.operands else []
        ways += [other_op] if node.op in OTHER_OPS else []
        ways += [other_constant] if "by" in node.attributes else []
        ways += [other_range] if node.op == "tensor.arange" else []
        ways += [other_half] if node.op == "tensor.slice" else []
        if not ways:
            continue
        way = draw.choice(ways)
        try:
            way(node, draw)
            ir.verify_module(changed)
        except (InternalError, IndexError):
            continue
        if ir.print_module(changed) != text:
            return changed, f"{way.__name__} of {before}"


@pytest.fixture(scope="module")
def plain(traced: Traced) -> Counter[str]:
    """How often each op occurs where nothing was changed."""
    module = traced(family("longrope-long"))
    run_pipeline(module, standard_pipeline())
    return Counter(node.op for node in module.nodes())


def test_mutants_keep_their_meaning(traced: Traced, execute: Execute, plain: Counter[str]) -> None:
    config = family("longrope-long")
    unfused = explained = 0
    for seed in SEEDS:
        module, what = mutant(traced(config), seed)
        with np.errstate(all="ignore"):
            expected = execute(module, config, 5, 3)
            run_pipeline(module, standard_pipeline())
            found = execute(module, config, 5, 3)
        for name, wanted in expected.items():
            bound = 1e-5 * np.abs(wanted).max(initial=0)
            same = np.isnan(wanted).any() or np.abs(found[name] - wanted).max(initial=0) <= bound
            assert same, f"{name} of mutant {seed}: {what}"
        counts = Counter(node.op for node in module.nodes())
        if any(counts[op] < plain[op] for op in ("nn.rms_norm", "nn.rope", "attn.dense")):
            unfused += 1
            explained += bool(module.remarks)
    assert unfused > 30
    assert explained > 0.9 * unfused
