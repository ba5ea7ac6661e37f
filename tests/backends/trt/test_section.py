"""What the compiler writes is what the executor reads, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from arkinfer_trt.section import Cache, NetworkWeight, Probe, Stored, TensorRTSection

TABLE = Stored((7, 16), "int8-g16", {"codes": "embed.codes", "scale": "embed.scale"})
NORM = Stored((16,), "", {"": "norm"})
GEMV = NetworkWeight(("head.words", "head.scale"), "gemv", ("gemv",), False, TABLE)
INT4 = NetworkWeight(("head.int4", "head.int4.scale"), "int4", ("native",), True, TABLE)
DENSE = NetworkWeight(("norm",), "dense", ("gemv", "native"), True, NORM)
SECTION = TensorRTSection(
    dtype="float16",
    context=64,
    chunk=8,
    vocab_size=7,
    hidden_size=16,
    sm=87,
    networks={"gemv": "network.onnx", "native": "native.onnx"},
    kernels="kernels.json",
    embedding=TABLE,
    embedding_factor=12.0,
    caches=(Cache("k0", (1, 2, 64, 8)),),
    weights=(GEMV, INT4, DENSE),
    probes=(
        Probe(
            {"gemv": "0.gemv.onnx", "native": "0.native.onnx"},
            {"gemv": "head.words", "native": "head.int4"},
            24,
        ),
    ),
)


def test_round_trip() -> None:
    facts = json.loads(json.dumps(SECTION.to_json()))
    assert TensorRTSection.from_json(facts) == SECTION


def _set(*path: Any) -> Callable[[Any], None]:
    *where, name, value = path

    def change(facts: Any) -> None:
        for step in where:
            facts = facts[step]
        facts[name] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("dtype", "int8"),
        _set("context", -1),
        _set("context", 1.5),
        _set("networks", {}),
        _set("networks", {"other": "x"}),
        _set("weights", 0, "form", "sparse"),
        _set("weights", 0, "inputs", ["words"]),
        _set("weights", 2, "inputs", ["a", "b"]),
        _set("weights", 0, "networks", ["gemv", "third"]),
        _set("caches", 0, "shape", [1, 2, 64]),
        _set("caches", 0, "shape", [1, 2, 0, 8]),
        _set("probes", 0, "times", 0),
        _set("probes", 0, "files", {"gemv": "x"}),
        _set("embedding", "parts", ["codes"]),
        _set("embedding", None),
    ],
)
def test_refuses_anything_else(change: Callable[[Any], None]) -> None:
    facts = json.loads(json.dumps(SECTION.to_json()))
    change(facts)
    with pytest.raises((ArithmeticError, AttributeError, LookupError, TypeError, ValueError)):
        TensorRTSection.from_json(facts)


def test_profiles() -> None:
    assert SECTION.profiles() == {
        "decode": {"T": (1, 1, 1), "R": (1, 1, 1), "C": (64, 64, 64)},
        "prefill": {"T": (1, 8, 8), "R": (1, 1, 1), "C": (64, 64, 64)},
        "verify": {"T": (1, 8, 8), "R": (1, 8, 8), "C": (64, 64, 64)},
    }
    long = replace(SECTION, context=9000, chunk=512).profiles()
    seen = (256, 2048, 9000)
    assert long == {
        "decode": {"T": (1, 1, 1), "R": (1, 1, 1), "C": seen},
        "prefill": {"T": (1, 512, 512), "R": (1, 1, 1), "C": seen},
        "verify": {"T": (1, 64, 64), "R": (1, 64, 64), "C": seen},
    }


@pytest.mark.parametrize(
    ("tokens", "rows"),
    [(1, 256), (256, 256), (257, 512), (4096, 4096), (4097, 8192), (8193, 9000), (9000, 9000)],
)
def test_steps_look_at_as_many_rows_of_the_caches_as_few_sizes_allow(
    tokens: int, rows: int
) -> None:
    assert replace(SECTION, context=9000).window(tokens) == rows
