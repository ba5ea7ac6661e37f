"""Where a step has its residual stream, by structure alone."""

from __future__ import annotations

from typing import Any

import pytest

from arkinfer import ir
from arkinfer.models.config import parse_config
from arkinfer.packing import parse_scheme
from arkinfer.passes import pass_named
from arkinfer.testing import preset
from arkinfer.testing.dense import dense_module


def stream_of(module: ir.Module) -> list[str]:
    """Each layer's last sum and the norm, as the text calls them; none without a stream."""
    step = module.functions["step"]
    stream = ir.find_stream(step)
    if stream is None:
        return []
    names = ir.value_names(step)
    return [*(names[value] for value in stream.layers), names[stream.norm.result]]


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False}, {"scale_depth": 0.3}])
def test_layers_and_norm_of_a_model(changes: dict[str, Any]) -> None:
    module = dense_module(
        parse_config(preset("tiny", num_hidden_layers=3, **changes)),
        linear=parse_scheme("int4-g32"),
    )
    step = module.functions["step"]
    stream = ir.find_stream(step)
    assert stream is not None
    assert stream.taps == ("layers.0", "layers.1", "layers.2", "final")
    assert stream.norm.loc == "model.norm"
    makers = [value.producer for value in stream.layers]
    assert [(node.op, node.loc) for node in makers if node] == [
        ("nn.add", f"model.layers.{i}") for i in range(3)
    ]
    readers = [{n.loc for n in step.users()[value]} for value in stream.layers]
    assert readers[0] == {"model.layers.1.input_layernorm", "model.layers.1"}
    assert stream.place("layers.1") == (stream.layers[1], None)
    assert stream.place("final") == (stream.layers[2], stream.norm)


def test_names_and_paths_do_not_matter() -> None:
    module = dense_module(parse_config(preset("tiny")))
    before = stream_of(module)
    assert before
    for node in module.nodes():
        node.loc = ""
    assert stream_of(module) == before


def test_the_stream_survives_what_backends_rewrite() -> None:
    module = dense_module(parse_config(preset("tiny")))
    before = stream_of(module)
    assert pass_named("rescale-residual").run(module)
    assert stream_of(module) == before


TEXT = """
module
weight @table : f32[9, 4]
weight @gain : f32[4]
weight @w : f32[4, 4]
func @step(%tokens: i64[T], %rows: i64[R]) {
  %0 = nn.embedding(%tokens, @table) {scale = 1.0} : f32[T, 4]
  %1 = nn.linear(%0, @w) : f32[T, 4]
  %2 = nn.add(%0, %1) {scale = 1.0} : f32[T, 4]
  %3 = nn.rms_norm(%2, @gain) {eps = 1e-05} : f32[T, 4]
  %4 = nn.linear(%3, @table) : f32[T, 9]
  return logits = %4
}
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),  # no attention
        ("logits", "others"),
        ("%3 = nn.rms_norm(%2, @gain) {eps = 1e-05}", "%3 = nn.linear(%2, @w)"),
        ("%4 = nn.linear(%3, @table) : f32[T, 9]", "%4 = nn.add(%3, %2) {scale = 1.0} : f32[T, 4]"),
        ("nn.add(%0, %1) {scale = 1.0}", "nn.silu_mul(%0, %1)"),
    ],
)
def test_what_is_of_another_make_has_none(old: str, new: str) -> None:
    assert stream_of(ir.parse_module(TEXT.replace(old, new))) == []
