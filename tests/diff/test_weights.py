"""Weights that differ: by bytes, by scheme, by shape, and by how much."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arkinfer.artifact import ArtifactWriter, open_artifact
from arkinfer.diff import weights as room
from arkinfer.diff.weights import WeightChange, differing_weights, sizes
from arkinfer.packing import parse_scheme
from arkinfer.quant import round_to_nearest

FACTS: dict[str, Any] = {
    "model": {"name": "m", "architecture": "LlamaForCausalLM"}, "context": 64, "quant": "none",
    "dtype": "fp32", "target": {"name": "cpu"}, "tokens": {"bos": None, "stop": []},
}  # fmt: skip
W = np.random.default_rng(0).standard_normal((96, 128)).astype(np.float32)


def write(path: Path, **weights: Any) -> Path:
    """An artifact with dense arrays, or (scheme, matrix) pairs, under model.layers.0."""
    with ArtifactWriter(path) as writer:
        for name, value in weights.items():
            full = f"model.layers.0.{name}.weight"
            if not isinstance(value, tuple):
                writer.add_tensor(full, value.dtype.name, value.shape, iter([value]))
                continue
            scheme, matrix = value
            for part, array in round_to_nearest(matrix, parse_scheme(scheme)).parts().items():
                at = f"{full}.{scheme}.{part}"
                writer.add_tensor(at, array.dtype.name, array.shape, iter([array]))
        return writer.commit(dict(FACTS))


def changes(tmp_path: Path, a: dict[str, Any], b: dict[str, Any]) -> list[WeightChange]:
    paths = write(tmp_path / "a.ark", **a), write(tmp_path / "b.ark", **b)
    with open_artifact(paths[0]) as first, open_artifact(paths[1]) as second:
        return differing_weights(first, second)


def test_added_removed_and_the_same(tmp_path: Path):
    found = changes(tmp_path, {"up_proj": W, "old": W}, {"up_proj": W, "new": ("int8-g128", W)})
    assert [(w.name, w.how) for w in found] == [
        ("model.layers.0.old.weight", "removed"), ("model.layers.0.new.weight", "added"),
    ]  # fmt: skip
    added = found[1].b
    assert added is not None
    assert (added.kind, added.shape, set(added.parts)) == (
        "int8-g128",
        (96, 128),
        {"codes", "scale"},
    )
    assert added.size == 96 * 128 + 96 * 4


@pytest.mark.parametrize("block", [1 << 21, 300])
def test_how_much_a_dense_weight_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
):
    monkeypatch.setattr(room, "BLOCK", block)
    noise = np.random.default_rng(1).standard_normal(W.shape).astype(np.float32) / 100
    (found,) = changes(tmp_path, {"up_proj": W}, {"up_proj": W + noise})
    expected = np.linalg.norm((W + noise).astype(np.float64) - W) / np.linalg.norm(W)
    assert found.how == "changed"
    assert found.relative == pytest.approx(expected, rel=1e-6)


def test_one_element_of_a_vector(tmp_path: Path):
    a = np.ones(100, np.float32)
    b = a.copy()
    b[7] = 2
    (found,) = changes(tmp_path, {"norm": a}, {"norm": b})
    assert found.relative == pytest.approx(0.1)


@pytest.mark.parametrize("other", ["int8-g128", "int4-g32-asym", "int3-row", None])
def test_schemes_are_compared_by_what_they_stand_for(tmp_path: Path, other: str | None):
    b = W if other is None else (other, W)
    (found,) = changes(tmp_path, {"up_proj": ("int4-g128", W)}, {"up_proj": b})
    first = round_to_nearest(W, parse_scheme("int4-g128")).dequantize().astype(np.float64)
    second = W if other is None else round_to_nearest(W, parse_scheme(other)).dequantize()
    expected = np.linalg.norm(first - second) / np.linalg.norm(first)
    assert found.relative == pytest.approx(expected, rel=1e-6)
    assert (found.a and found.a.kind, found.b and found.b.kind) == ("int4-g128", other or "float32")
    assert 0.01 < expected < 0.3


def test_a_scale_that_changed(tmp_path: Path):
    """Codes are equal, so that only one part of the weight differs; the weight is named once."""
    (found,) = changes(tmp_path, {"up_proj": ("int4-g128", W)}, {"up_proj": ("int4-g128", 2 * W)})
    assert found.relative == pytest.approx(1.0)


def test_what_cannot_be_compared(tmp_path: Path):
    (found,) = changes(tmp_path, {"up_proj": W}, {"up_proj": W[:64]})
    assert (found.relative, found.why) == (None, "shapes [96, 128] and [64, 128]")
    bad = W.copy()
    bad[0, 0] = np.nan
    (found,) = changes(tmp_path, {"up_proj": W}, {"up_proj": bad})
    assert (found.relative, found.why) == (None, "a value is not a number")
    (found,) = changes(tmp_path, {"up_proj": np.zeros(4, np.float32)}, {"up_proj": W[0, :4]})
    assert found.relative == math.inf


def test_parts_of_a_foreign_file_that_do_not_fit(tmp_path: Path):
    """A name that looks like ours with a tensor that is not: a reason, no breakdown."""
    path = write(tmp_path / "a.ark", up_proj=("int4-g128", W))
    with ArtifactWriter(tmp_path / "b.ark") as writer:
        codes = np.zeros((96, 1, 64), np.uint8)
        name = "model.layers.0.up_proj.weight.int4-g128"
        writer.add_tensor(f"{name}.codes", "uint8", codes.shape, iter([codes]))
        writer.commit(dict(FACTS))
    with open_artifact(path) as a, open_artifact(tmp_path / "b.ark") as b:
        (found,) = differing_weights(a, b)
    assert found.relative is None
    assert found.why


def test_a_weight_that_is_stored_twice(tmp_path: Path):
    """A tied embedding in two schemes: the one that is in both is not a difference."""
    size = 96 * 128 * 4 + 96 * 128 + 96 * 4
    twice = write(tmp_path / "a.ark", embed=W, tied=("int8-g128", W))
    other = write(tmp_path / "b.ark", embed=W, tied=("int8-g128", W))
    with open_artifact(twice) as a, open_artifact(other) as b:
        assert differing_weights(a, b) == []
        assert sum(size_a for _, size_a, _ in sizes(a, b)) == size
        assert sizes(a, b)[0] == ("embedding", W.nbytes, W.nbytes)


def test_progress_ends_where_it_should(tmp_path: Path):
    paths = write(tmp_path / "a.ark", x=W, y=W), write(tmp_path / "b.ark", x=W + 1, y=W + 1)
    seen: list[tuple[int, int]] = []
    with open_artifact(paths[0]) as a, open_artifact(paths[1]) as b:
        differing_weights(a, b, lambda done, total: seen.append((done, total)))
    assert seen == [(2 * W.nbytes, 4 * W.nbytes), (4 * W.nbytes, 4 * W.nbytes)]
