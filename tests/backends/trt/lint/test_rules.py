"""The table of rules: it says what ONNX has, and has what the compiler emits."""

from __future__ import annotations

import ast
from importlib.resources import files

import pytest
from onnx import defs

from arkinfer_trt.lint.rules import DTYPES, FIRST_OPSET, LAST_OPSET, RULES, Rule

EMITTERS = ("compiler.py", "graph.py", "lowering.py", "products.py", "weights.py")
"""Modules that make nodes, where they are."""


def emitted() -> set[str]:
    """Names of ONNX ops that stand as text in the compiler's modules."""
    folder = files("arkinfer_trt")
    texts = [folder.joinpath(name) for name in EMITTERS]
    words = {
        node.value
        for text in texts
        if text.is_file()
        for node in ast.walk(ast.parse(text.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return {word for word in words if defs.has(word)}


def test_every_op_that_the_compiler_emits_is_in_the_table() -> None:
    assert {"Attention", "DequantizeLinear", "MatMul", "TensorScatter"} <= emitted()
    rows = {op: RULES[op] for op in emitted()}
    late = {op: row.since for op, row in rows.items() if not row.since.startswith("10.")}
    assert late == {}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_row_says_what_onnx_has(rule: Rule) -> None:
    """Inputs and attributes by which a rule goes are those of the op."""
    assert defs.has(rule.op)
    schema = defs.get_schema(rule.op, LAST_OPSET, "")
    count = schema.max_input
    groups = (*rule.types, *rule.ranks)
    numbers = [i for group in groups for i in group.inputs] + [*rule.constant, *rule.absent]
    assert all(number < count for number in numbers)
    assert {dtype for group in rule.types for dtype in group.allowed} <= set(DTYPES.values())
    assert {name for name in rule.attributes if name not in schema.attributes} == set()
    assert all(schema.inputs[i].option.name == "Optional" for i in rule.absent)
    if rule.since in ("never", "avoid"):
        assert rule.hint
    else:
        assert FIRST_OPSET - 8 <= rule.opset <= LAST_OPSET
        assert defs.get_schema(rule.op, max(rule.opset, FIRST_OPSET), "")
