"""The whole comparison of two files, its sentences, its JSON and its page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from arkinfer.artifact import ArtifactWriter, open_artifact
from arkinfer.diff.compare import Comparison, compare
from arkinfer.diff.page import comparison_page
from arkinfer.diff.wording import graph_summary, headline, weights_summary
from tests.diff.test_weights import FACTS, W

IR = (
    "module {{context = 64}}\nfunc @step(%x: f32[T, 4]) {{\n"
    "  %0 = nn.add(%x, %x) {{scale = {}}} : f32[T, 4]  // model.layers.0\n  return y = %0\n}}\n"
)


def write(path: Path, entries: dict[str, str], **weights: Any) -> Path:
    with ArtifactWriter(path) as writer:
        for name, text in entries.items():
            writer.add_bytes(name, text.encode())
        for name, array in weights.items():
            writer.add_tensor(name, array.dtype.name, array.shape, iter([array]))
        return writer.commit(dict(FACTS))


def compared(a: Path, b: Path) -> Comparison:
    with open_artifact(a) as first, open_artifact(b) as second:
        return compare(first, second, run=False)


def test_every_part(tmp_path: Path):
    entries = {"report.json": "{}", "backends/x/model.onnx": "1", "chat_template.jinja": "t"}
    a = write(tmp_path / "a.ark", {"ir.txt": IR.format(1.0), **entries}, up=W, down=W)
    entries = {"report.json": "{ }", "chat_template.jinja": "t", "note.txt": "new"}
    b = write(tmp_path / "b.ark", {"ir.txt": IR.format(0.5), **entries}, up=W, down=W + 1)
    found = compared(a, b)
    assert headline(found) == "They differ in the graph, 1 weight, 3 other entries."
    assert graph_summary(found.graphs[0]) == "1 nn.add changed in attributes"
    assert weights_summary(found) == "1 the same, 1 changed"
    assert [(e.name, e.a, e.b) for e in found.entries] == [
        ("report.json", 2, 3), ("backends/x/model.onnx", 1, None), ("note.txt", None, 3),
    ]  # fmt: skip
    facts = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert facts["graph"][0]["changed"] == [
        {"op": "nn.add", "loc": "model.layers.0", "kinds": ["attributes"],
         "what": "scale 1.0 → 0.5"},
    ]  # fmt: skip
    assert facts["weights"]["differing"][0]["how"] == "changed"
    page = comparison_page(found, "a.ark", "b.ark")
    for text in ("scale 1.0 → 0.5", "model.layers.0", "Largest relative differences", "note.txt"):
        assert text in page, text


def test_a_graph_that_is_not_ours(tmp_path: Path):
    a = write(tmp_path / "a.ark", {"ir.txt": IR.format(1.0)})
    b = write(tmp_path / "b.ark", {"ir.txt": "<script>alert(1)</script>"})
    found = compared(a, b)
    (graph,) = found.graphs
    assert graph.diff is None
    assert graph_summary(graph).startswith("It cannot be compared: ")
    assert headline(found) == "They differ in the graph."
    assert "<script>" not in comparison_page(found, "<script>", "b.ark")


def test_names_alone(tmp_path: Path):
    a = write(tmp_path / "a.ark", {"ir.txt": IR.format(1.0).replace("%0", "%a")})
    b = write(tmp_path / "b.ark", {"ir.txt": IR.format(1.0).replace("%0", "%b")})
    found = compared(a, b)
    assert graph_summary(found.graphs[0]).startswith("The ops are the same")
    assert headline(found) == "They differ in the file's layout."


def test_the_order_of_weights_alone(tmp_path: Path):
    a, b = np.ones(4, np.float32), np.zeros(4, np.float32)
    found = compared(
        write(tmp_path / "a.ark", {}, x=a, y=b), write(tmp_path / "b.ark", {}, y=b, x=a)
    )
    assert not found.same
    assert headline(found) == "They differ in the file's layout."
