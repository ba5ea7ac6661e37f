"""Bytes and arithmetic of ops against sums done by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from arkinfer.artifact import ArtifactWriter, Section, open_artifact
from arkinfer.errors import ArtifactError
from arkinfer.profile.cost import CostModel, stored_bytes
from arkinfer.profile.listing import Listing, read_listing

MODULE = """\
module
weight @table : bf16[100, 8]
weight @q : quant<int4-g32>[24, 8]
weight @f : f32[4]
weight @norm : bf16[8]
func @step(%tokens: i64[T], %rows: i64[R], %k0: cache<f32>[S, 1, 8], %v0: cache<f32>[S, 1, 8]) {
  %0 = tensor.arange() {start = S, stop = S + T} : i64[T]
  %1 = nn.embedding(%tokens, @table) {scale = 1.0} : f32[T, 8]  // embed
  %2 = quant.linear(%1, @q) : f32[T, 24]  // attn
  %3 = tensor.reshape(%2) {shape = [T, 3, 8]} : f32[T, 3, 8]  // attn
  %4 = tensor.slice(%3) {axis = 1, start = 0, stop = 1} : f32[T, 1, 8]  // attn
  %5 = tensor.slice(%3) {axis = 1, start = 1, stop = 2} : f32[T, 1, 8]  // attn
  %6 = tensor.slice(%3) {axis = 1, start = 2, stop = 3} : f32[T, 1, 8]  // attn
  %7 = nn.rope(%4, %0, @f) {factor = 1.0} : f32[T, 1, 8]  // attn
  %8 = nn.rope(%5, %0, @f) {factor = 1.0} : f32[T, 1, 8]  // attn
  %9 = cache.append(%k0, %8) : cache<f32>[S + T, 1, 8]  // attn
  %10 = cache.append(%v0, %6) : cache<f32>[S + T, 1, 8]  // attn
  %11 = attn.dense(%7, %9, %10) {scale = 1.0} : f32[T, 1, 8]  // attn
  %12 = tensor.reshape(%11) {shape = [T, 8]} : f32[T, 8]  // attn
  %13 = nn.add(%1, %12) {scale = 1.0} : f32[T, 8]  // layer
  %14 = nn.rms_norm(%13, @norm) {eps = 1e-05} : f32[T, 8]  // norm
  %15 = tensor.take(%14, %rows) : f32[R, 8]
  %16 = nn.linear(%15, @table) : f32[R, 100]  // head
  return logits = %16, k0 = %9, v0 = %10
}
"""
STORED = {"q": 1000}


@pytest.fixture
def listing() -> Listing:
    return read_listing(MODULE)


def cost(listing: Listing, *lines: int, tokens: int = 2, depth: int = 5, rows: int | None = None):
    model = CostModel(listing, STORED, tokens=tokens, depth=depth)
    found = model.of([listing.ops[line] for line in lines], rows)
    return found.bytes, found.flops


def test_products_count_their_stored_weight_once_and_two_for_a_multiply_add(listing: Listing):
    assert cost(listing, 2) == (1000 + 2 * 8 * 4 + 2 * 24 * 4, 2 * 2 * 24 * 8)
    assert cost(listing, 16) == (100 * 8 * 2 + 8 * 4 + 100 * 4, 2 * 100 * 8)
    assert cost(listing, 2, rows=1) == (1000 + 8 * 4 + 24 * 4, 2 * 24 * 8)


def test_a_lookup_reads_its_rows_only(listing: Listing):
    assert cost(listing, 1) == (2 * 8 * 2 + 2 * 8 + 2 * 8 * 4, 0)


def test_an_attention_reads_its_caches_to_their_depth(listing: Listing):
    pairs = 2 * 5 + 3
    assert cost(listing, 11) == (2 * 7 * 8 * 4 + 2 * (2 * 8 * 4), 4 * 8 * pairs)
    assert cost(listing, 9) == (2 * (2 * 8 * 4), 0)


def test_scales_of_int8_caches_move_with_their_codes():
    """A byte for each number, and four for each row."""
    kinds = "cache<i8>[S + T, 1, 8], cache<f32>[S + T, 1, 1]"
    changes = {
        "%9 = cache.append(%k0, %8) : cache<f32>[S + T, 1, 8]":
            f"%9, %17 = cache.append(%k0, %8, %k0.scale) : {kinds}",
        "%10 = cache.append(%v0, %6) : cache<f32>[S + T, 1, 8]":
            f"%10, %18 = cache.append(%v0, %6, %v0.scale) : {kinds}",
        "attn.dense(%7, %9, %10)": "attn.dense(%7, %9, %10, %17, %18)",
        "%v0: cache<f32>[S, 1, 8]":
            "%v0: cache<i8>[S, 1, 8], %k0.scale: cache<f32>[S, 1, 1], "
            "%v0.scale: cache<f32>[S, 1, 1]",
        "%k0: cache<f32>": "%k0: cache<i8>",
    }  # fmt: skip
    text = MODULE
    for before, after in changes.items():
        assert before in text
        text = text.replace(before, after)
    listing = read_listing(text)
    assert cost(listing, 9) == (2 * 8 * 4 + 2 * (8 + 4), 0)
    assert cost(listing, 11)[0] == 2 * 7 * (8 + 4) + 2 * (2 * 8 * 4)


def test_a_kernel_of_several_ops_does_not_move_what_stays_inside(listing: Listing):
    """As GroupQueryAttention: split, rotate, append, attend, join."""
    rows = 2 * 8 * 4
    read, caches, appended, written = 3 * rows, 2 * 7 * 8 * 4, 2 * rows, rows
    inverse, positions = 4 * 4, 0
    assert cost(listing, 0, *range(3, 13)) == (
        read + caches + appended + written + inverse + positions, 4 * 8 * (2 * 5 + 3)
    )  # fmt: skip
    assert cost(listing, 13, 14) == (8 * 2 + 2 * rows + rows, 0)  # the sum has no other reader


def test_views_move_nothing(listing: Listing):
    assert cost(listing, 0) == cost(listing, 3) == cost(listing, 4) == (0, 0)


def test_a_listing_that_contradicts_itself_is_an_artifact_error():
    listing = read_listing(MODULE.replace("%13, @norm", "%13, @gone"))
    with pytest.raises(ArtifactError, match="contradicts itself"):
        CostModel(listing, STORED, tokens=1, depth=0).of(listing.ops)


def test_stored_bytes_are_those_of_the_file(tmp_path: Path):
    """Parts of a weight, what a backend repacked in place of its part, and no other weight's."""
    sizes = {"w.codes": 512, "w.scale": 64, "mine/w.scale.g16": 128, "w2.codes": 32, "d": 16}
    path = tmp_path / "a.ark"
    with ArtifactWriter(path) as writer:
        for name, size in sizes.items():
            writer.add_tensor(name, "uint8", (size,), iter([np.zeros(size, np.uint8)]))
        writer.add_section(Section("mine", {}, {}, tuple(sizes)))
        writer.commit({
            "model": {"name": "m", "architecture": "A", "vocab_size": 8}, "context": 8,
            "quant": "none", "dtype": "fp32", "target": {"name": "cpu"},
            "tokens": {"bos": None, "stop": []},
        })  # fmt: skip
    listing = read_listing(
        "module\nweight @w : quant<int4-g32>[4, 32]\nweight @w2 : quant<int4-g32>[4, 32]\n"
        "weight @d : f32[4]\nweight @other : quant<int4-g32>[4, 32]\nfunc @step(%x: f32[T]) {\n}\n"
    )
    with open_artifact(path) as artifact:
        found = stored_bytes(artifact, artifact.sections["mine"], listing.weights)
    assert found == {"w": 512 + 128, "w2": 32, "other": 4 * 16 + 4 * 4}
