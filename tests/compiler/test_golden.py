"""What golden vectors are computed from: each leaf as the artifact has it, found by its rule."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arkinfer.artifact import ArtifactWriter
from arkinfer.compiler import golden
from arkinfer.compiler.effective import EffectiveWeights, SourceWeights, Stored, places
from arkinfer.compiler.golden import chosen_positions
from arkinfer.compiler.prepare import used_weights
from arkinfer.compiler.section import SectionWriter
from arkinfer.compiler.weights import WeightStore
from arkinfer.errors import InternalError
from arkinfer.ir import Derived, TensorType, Weight
from arkinfer.packing import QuantizedTensor
from tests.backends.lab import Model

MODEL = Model(
    "golden", {"num_hidden_layers": 2}, linear="int4-g32", embedding="int8-g32", dtype="bfloat16"
)
V_PROJ = "model.layers.1.self_attn.v_proj.weight"


def effective(writer: ArtifactWriter, *, stored: bool) -> EffectiveWeights:
    module = MODEL.module
    store = WeightStore(module.weights, MODEL.leaves)
    finals = used_weights([module])
    if stored:
        section = SectionWriter("any", writer, store)
        for weight in finals:
            section.weight(weight)
    where = places(finals, module.weights)
    return EffectiveWeights(MODEL.leaves, Stored(writer, store), where)


def test_a_leaf_is_found_in_the_matrix_that_it_became_a_part_of() -> None:
    place = places(used_weights([MODEL.module]), MODEL.module.weights)[V_PROJ]
    assert place.final.name.startswith("model.layers.1.self_attn.qkv_proj.weight.int4-g32")
    assert place.start == (4 + 2) * 32  # after the queries' and the keys' heads


@pytest.mark.parametrize("stored", [True, False])
def test_effective_weights_are_what_was_quantized(tmp_path: Path, stored: bool) -> None:
    weight = MODEL.module.weights[V_PROJ]
    place = places(used_weights([MODEL.module]), MODEL.module.weights)[V_PROJ]
    whole = MODEL.store.load(place.final)
    assert isinstance(whole, QuantizedTensor)
    expected = whole.dequantize()[place.start : place.start + 64]
    with ArtifactWriter(tmp_path / "m.ark") as writer:
        found = effective(writer, stored=stored)
        np.testing.assert_array_equal(found.load(weight), expected)
        np.testing.assert_array_equal(found.rows(weight, 10, 20), expected[10:20])
        source = SourceWeights(MODEL.leaves).load(weight)
    assert 0.01 < np.abs(source - expected).max() / np.abs(source).max() < 0.2


def test_a_scale_on_the_way_is_not_repeated() -> None:
    """A norm's weight that a pass multiplied: the checkpoint's own; of a quantized matrix, out."""
    leaf = Weight("w", TensorType("f32", (4, 32)))
    scaled = Weight("s", TensorType("f32", (4, 32)), Derived("scale", ("w",), (("by", 0.5),)))
    cast = Weight("c", TensorType("bf16", (4, 32)), Derived("cast", ("s",), (("to", "bf16"),)))
    place = places([cast], {"w": leaf, "s": scaled, "c": cast})["w"]
    assert (place.by, place.cast, place.start) == (0.5, ("bf16",), 0)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    rows = np.arange(60, dtype=np.int32).reshape(10, 3, 2)
    with ArtifactWriter(tmp_path / "m.ark") as writer:
        writer.add_tensor("t", "int32", rows.shape, [rows[:4], rows[4:]])
        writer.add_bytes("after", b"x")
        np.testing.assert_array_equal(writer.read_back("t", 3, 9), rows[3:9])
        with pytest.raises(InternalError, match="was not added"):
            writer.read_back("u", 0, 1)


def test_positions_are_spread_to_the_last_one() -> None:
    found: Any = chosen_positions(16, 280)
    assert found[:16] == list(range(16))
    assert (found[16], found[-1], len(found)) == (16, 279, 32)
    assert chosen_positions(7, 7) == list(range(7))
    assert chosen_positions(16, 18) == list(range(18))


def test_docstring_examples() -> None:
    assert doctest.testmod(golden) == (0, 1)
