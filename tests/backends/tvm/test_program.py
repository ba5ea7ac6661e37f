"""The form of programs: what is written is read, and what refers to nothing is refused."""

from __future__ import annotations

import json
import weakref
from typing import Any

import pytest

from arkinfer.artifact import open_artifact
from arkinfer_tvm.program import (
    Call,
    Dimension,
    Operand,
    Program,
    programs_from_json,
    programs_to_json,
)

PROGRAM = Program(
    (Dimension((("T", 2),), 1, 3, 4),),
    (Operand("scratch", 0), Operand("weight", "w"), Operand("own", 0), Operand("dim", 0)),
    (Call("first", (0, 2, 3), 0, meet=False), Call("second", (0, 1), 0, stream=1)),
    (),
    64,
    128,
    7,
)


def test_what_is_written_is_read(small: Any) -> None:
    assert programs_from_json(programs_to_json([PROGRAM])) == [PROGRAM]
    with open_artifact(small.path) as artifact:
        data = artifact.read(artifact.sections["tvm"].config["programs"])
    assert programs_to_json(programs_from_json(data)) == data


def test_of_a_model(small: Any) -> None:
    """Products say what they stream; what is needed of the call before is waited for."""
    with open_artifact(small.path) as artifact:
        data = artifact.read(artifact.sections["tvm"].config["programs"])
    program, *_ = programs_from_json(data)
    streams = {c.kernel.rpartition("_")[0] for c in program.calls if c.stream is not None}
    assert streams == {"quant_linear"}
    met = [(call.kernel.rpartition("_")[0], call.meet) for call in program.calls]
    turned = [i for i, (family, _) in enumerate(met) if family == "rope"]
    for query, key in zip(turned[::2], turned[1::2], strict=True):
        assert met[query : key + 1] == [("rope", False), ("rope", True)]
        assert met[key + 1 : key + 3] == [("append", False), ("append", True)]
    assert met[-1][1]


def test_nobody_but_the_caller_keeps_logits(small: Any, opened: Any) -> None:
    state = opened(small.path).new_state(8)
    output = state.step(small.tokens(3), rows="all")
    held = weakref.ref(output.logits)
    del output
    assert held() is None


@pytest.mark.parametrize(
    ("call", "refusal"),
    [
        (["k", [0, 9], 0, True, None], "the call of k has an operand that is not there"),
        (["k", [0], 1, True, None], "the call of k has an operand that is not there"),
        (["k", [0, 1], 0, True, 0], "the call of k reads a stream that is no weight"),
        (["k", [0], 0, True, 1], "the call of k reads a stream that is no weight"),
        (["k", [0] * 33, 0, True, None], "the call of k has 33 operands"),
    ],
)
def test_calls_that_refer_to_nothing(call: list[Any], refusal: str) -> None:
    facts = json.loads(programs_to_json([PROGRAM]))
    facts[0]["calls"][0] = call
    with pytest.raises(ValueError, match=f"^{refusal}$"):
        programs_from_json(json.dumps(facts).encode())
