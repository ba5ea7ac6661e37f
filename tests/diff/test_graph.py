"""Graphs that differ: numbers of values shift, and only what really differs is named."""

from __future__ import annotations

import pytest

from arkinfer.diff import graph as room
from arkinfer.diff.graph import Change, differing_ops

HEAD = "module {context = 64}\nweight @w : f32[4]\nweight @v : f32[4]\n"
NORM = "{0} = nn.rms_norm({1}, @w) {{eps = 1e-05}} : f32[T, 4]  // model.norm"
ADD = "{0} = nn.add({1}, {2}) {{scale = 1.0}} : f32[T, 4]  // model.layers.{3}"


def module(*lines: str, head: str = HEAD, out: str = "%2") -> str:
    body = "\n".join(f"  {line}" for line in lines)
    return f"{head}func @step(%x: f32[T, 4]) {{\n{body}\n  return y = {out}\n}}\n"


BASE = module(
    NORM.format("%0", "%x"), ADD.format("%1", "%0", "%x", 0), ADD.format("%2", "%1", "%0", 1)
)


def test_the_same():
    found = differing_ops(BASE, BASE)
    assert found.same
    assert found.lines == ()


def test_an_op_more_shifts_numbers_and_changes_who_reads_it():
    longer = module(
        NORM.format("%0", "%x"), ADD.format("%1", "%x", "%x", 7), ADD.format("%2", "%0", "%x", 0),
        ADD.format("%3", "%2", "%1", 1), out="%3",
    )  # fmt: skip
    found = differing_ops(BASE, longer)
    assert (found.added, found.removed) == ({"nn.add": 1}, {})
    assert found.changed == (
        Change("nn.add", "model.layers.1", ("operands",), "(%1, %0) → (%2, %1)"),
    )
    assert found.lines == (
        "@@ step, line 1 @@",
        "  %0 = nn.rms_norm(%x, @w) {eps = 1e-05} : f32[T, 4]  // model.norm",
        "+ %1 = nn.add(%x, %x) {scale = 1.0} : f32[T, 4]  // model.layers.7",
        "  %1 = nn.add(%0, %x) {scale = 1.0} : f32[T, 4]  // model.layers.0",
        "- %2 = nn.add(%1, %0) {scale = 1.0} : f32[T, 4]  // model.layers.1",
        "+ %3 = nn.add(%2, %1) {scale = 1.0} : f32[T, 4]  // model.layers.1",
    )
    back = differing_ops(longer, BASE)
    assert (back.added, back.removed) == ({}, {"nn.add": 1})


def test_attributes_types_and_weights():
    other = BASE.replace("eps = 1e-05", "eps = 0.1").replace("(%x, @w)", "(%x, @v)")
    found = differing_ops(BASE, other)
    assert found.changed == (
        Change("nn.rms_norm", "model.norm", ("attributes", "weights"),
               "eps 1e-05 → 0.1; @w → @v"),
    )  # fmt: skip
    wide = BASE.replace("f32[T, 4]", "f32[T, 8]").replace("f32[4]", "f32[8]")
    assert {change.kinds for change in differing_ops(BASE, wide).changed} == {("types",)}


def test_another_output():
    other = BASE.replace("return y = %2", "return y = %1")
    assert differing_ops(BASE, other).changed == (
        Change("return", "", ("operands",), "return y = %2 → return y = %1"),
    )


def test_facts_of_the_module():
    found = differing_ops(BASE, BASE.replace("context = 64", "context = 32, chunk = 8"))
    assert found.attributes == ("context 64 → 32", "chunk not there → 8")
    assert not found.same


def test_a_function_more():
    both = (
        BASE
        + "func @draft(%x: f32[T, 4]) {\n  %0 = nn.add(%x, %x) : f32[T, 4]\n  return y = %0\n}\n"
    )
    found = differing_ops(BASE, both)
    assert found.added == {"nn.add": 1}


def test_what_is_far_from_a_difference_is_not_shown():
    lines = [ADD.format("%0", "%x", "%x", 0)]
    lines += [ADD.format(f"%{i}", f"%{i - 1}", "%x", i) for i in range(1, 30)]
    a, b = module(*lines, out="%29"), module(*lines, out="%29")
    b = b.replace("%3 = nn.add(%2, %x)", "%3 = nn.add(%2, %2)")
    b = b.replace("%20 = nn.add(%19, %x)", "%20 = nn.add(%19, %1)")
    found = differing_ops(a, b)
    assert [line for line in found.lines if line.startswith("@@")] == [
        "@@ step, line 2 @@", "@@ step, line 20 @@",
    ]  # fmt: skip
    assert len(found.lines) == 2 + 2 * (2 + 2 + 2)


@pytest.mark.parametrize("text", ["", "nonsense", BASE[:-30], "module {", BASE.replace("%x,", "%")])
def test_a_text_that_cannot_be_read(text: str):
    with pytest.raises(ValueError, match=r"\w"):
        differing_ops(BASE, text)


def test_a_graph_that_is_too_large(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(room, "MOST", 2)
    with pytest.raises(ValueError, match="more than 2 nodes"):
        differing_ops(BASE, BASE)
