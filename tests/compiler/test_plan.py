"""Plans against the builds that they predict."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from arkinfer.compiler.build import build
from arkinfer.compiler.plan import plan
from arkinfer.errors import UnsupportedError, UsageError
from arkinfer.frontend.checkpoint import open_checkpoint
from arkinfer.frontend.dense import dense_module
from arkinfer.frontend.trace import trace
from arkinfer.ir import parse_module, print_module
from arkinfer.models.config import parse_config
from arkinfer.passes import run_pipeline, standard_pipeline
from arkinfer.quant import parse_quant
from arkinfer.targets import load_target
from arkinfer.testing import FAMILY, family, make_checkpoint, preset


@pytest.mark.parametrize("name", sorted(FAMILY))
def test_a_plan_looks_at_the_graph_that_a_build_makes(name: str) -> None:
    """`dense_module` writes down what tracing and the pipeline arrive at."""
    config = family(name)
    text = print_module(trace(config, 64))
    dtype = {"bfloat16": "bf16", "float16": "f16"}.get(config.torch_dtype, "f32")
    for spec in (None, parse_quant("int8-row")):
        traced = parse_module(text)
        run_pipeline(traced, standard_pipeline(spec))
        traced.attributes = {"context": 64, "chunk": 8, "vocab_size": config.vocab_size}
        linear = spec.linear if spec else None
        embedding = spec.embedding if spec else None
        assert traced == dense_module(
            config, context=64, chunk=8, dtype=dtype, linear=linear, embedding=embedding
        )


@pytest.mark.parametrize("backend", ["onnxruntime", "reference"])
@pytest.mark.parametrize("quant", ["none", "int8", "int4-g64-asym"])
def test_sizes_are_right_within_two_percent(tmp_path: Path, quant: str, backend: str) -> None:
    raw = preset("tiny", vocab_size=4096, hidden_size=256, intermediate_size=768)
    folder = make_checkpoint(raw, 0, tmp_path / "model")
    found = plan(folder, quant=quant, backend=backend)
    built = build(folder, quant=quant, backend=backend, output=tmp_path / "m.ark")
    assert abs(found.artifact_bytes / built.size - 1) < 0.02
    with open_checkpoint(folder) as checkpoint:
        config = checkpoint.config
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    assert found.kv_bytes_per_token == per_token
    assert found.kv_bytes == per_token * built.context
    assert found.parameters == config.num_parameters


@pytest.mark.parametrize("name", ["minicpm4-0.5b", "minicpm4-8b", "bitcpm4-1b", "minicpm4.1-8b"])
@pytest.mark.parametrize("quant", ["int4", "int8", "none"])
def test_published_shapes_need_no_weights(tmp_path: Path, name: str, quant: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(preset(name)))
    found = plan(tmp_path, quant=quant, backend="onnxruntime")
    bits = {"int4": (4.4, 6.0), "int8": (8.2, 8.6), "none": (16.0, 16.5)}[quant]
    assert bits[0] < 8 * found.weight_bytes / found.parameters < bits[1]
    assert found.run_bytes > found.weight_bytes + found.kv_bytes
    assert found.build_bytes < 3 << 30
    assert 0 < found.build_seconds < 20_000


def test_memory_bounds_the_context(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(preset("minicpm4.1-8b")))
    board = plan(tmp_path, target="jetson-orin", backend="onnxruntime", quant="int4-g128")
    assert board.memory == 8 << 30
    assert 0 < board.largest_context < board.context
    room = board.memory - (board.run_bytes - board.kv_bytes)
    assert board.largest_context == room // board.kv_bytes_per_token
    assert [each.depth for each in board.decode] == [0, 4096, 32768, board.context]
    rates = [each.tokens_per_second for each in board.decode]
    assert np.isclose(rates[0], 102e9 / 4.2e9, rtol=0.15)
    assert rates == sorted(rates, reverse=True)
    assert (board.engine_bytes, board.prepare_bytes) == (0, 0)  # nothing to finish


@pytest.mark.parametrize(
    ("target", "published"),
    [("jetson-agx-orin-64gb", 4), ("jetson-orin-nano-8gb", 2), ("rtx-4090", 0)],
)
def test_a_board_finishes_its_engine(tmp_path: Path, target: str, published: int) -> None:
    """Matrices of few bits lie beside it, so that any board has the memory to make it."""
    (tmp_path / "config.json").write_text(json.dumps(preset("minicpm4-8b")))
    found = plan(tmp_path, target=target, quant="int4-g128", embedding="int4-g128")
    assert found.kv == "fp16"
    config = parse_config(preset("minicpm4-8b"))
    numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    assert found.kv_bytes_per_token == 2 * numbers
    assert 0 < found.engine_bytes < 0.01 * found.weight_bytes
    assert found.prepare_bytes < 1 << 30
    assert 0.9 < (found.run_bytes - found.kv_bytes - (700 << 20)) / found.weight_bytes < 1.0
    assert len(found.published) == published
    # What a token reads: all linears, and the head; the embedding's table it does not.
    products = config.num_parameters - config.vocab_size * config.hidden_size
    bandwidth = load_target(target).bandwidth
    assert found.decode[0].tokens_per_second == pytest.approx(
        bandwidth / (products * (4 + 16 / 128) / 8), rel=0.01
    )
    for each in found.published:  # nobody beats the roofline of a model of that size
        if each.model.startswith("Qwen3-8B"):
            assert each.tokens_per_second < found.decode[0].tokens_per_second
    assert json.loads(json.dumps(found.to_json()))["decode"][0]["depth"] == 0


@pytest.mark.parametrize(
    ("target", "inside"), [("jetson-agx-orin-64gb", True), ("jetson-orin-nano-8gb", False)]
)
def test_dense_matrices_are_in_the_engine_where_memory_allows(
    tmp_path: Path, target: str, inside: bool
) -> None:
    shape = preset("minicpm4-8b", num_hidden_layers=12)
    (tmp_path / "config.json").write_text(json.dumps(shape))
    found = plan(tmp_path, target=target, quant="none")
    config = parse_config(shape)
    table = 2 * config.vocab_size * config.hidden_size  # looked up outside
    dense = 2 * config.num_parameters - table
    assert (found.engine_bytes > dense) == inside
    assert found.prepare_bytes < found.memory
    assert found.prepare_bytes > (4 * dense if inside else 0)
    assert found.run_bytes - found.kv_bytes == pytest.approx(dense + (700 << 20), rel=0.05)


def test_without_triton_int4_is_in_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arkinfer_trt.support.has_triton", lambda: False)
    (tmp_path / "config.json").write_text(json.dumps(preset("minicpm4-8b")))
    options = {"target": "jetson-orin-nano-8gb", "quant": "int4-g128"}
    found = plan(tmp_path, **options, embedding="int4-g128")
    assert 0.8 * found.weight_bytes < found.engine_bytes < 1.1 * found.weight_bytes
    assert found.prepare_bytes > found.memory
    assert 'pip install "arkinfer[kernels]"' in found.slow[0]
    with pytest.raises(UnsupportedError, match=r'not installed: pip install "arkinfer\[kernels\]"'):
        plan(tmp_path, **options, embedding="int8-g128")


def test_a_plan_refuses_what_a_build_refuses(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(preset("tiny")))
    with pytest.raises(UsageError, match=r'no target "cpuu"\. Did you mean "cpu"'):
        plan(tmp_path, target="cpuu")
    with pytest.raises(UsageError, match="The context cannot be"):
        plan(tmp_path, context=10**9, backend="onnxruntime")
    (tmp_path / "config.json").write_text(
        json.dumps({**preset("tiny"), "architectures": ["MiniCPMForCasualLM"]})
    )
    with pytest.raises(UnsupportedError, match='Did you mean "MiniCPMForCausalLM"'):
        plan(tmp_path, backend="onnxruntime")


def test_overrides_are_planned_as_they_are_built(tmp_path: Path) -> None:
    folder = make_checkpoint(preset("tiny"), 0, tmp_path / "tiny")
    overrides = {"model.layers.*.mlp.down_proj": "int8-g32", "model.layers.1.*": "int8-g64"}
    predicted = plan(folder, quant="int4-g32", overrides=overrides, backend="onnxruntime")
    report = build(
        folder,
        quant="int4-g32",
        overrides=overrides,
        output=tmp_path / "m.ark",
        backend="onnxruntime",
    )
    assert report.schemes == {"int4-g32": 4, "int8-g32": 2, "int8-g64": 5}
    assert predicted.artifact_bytes == pytest.approx(report.size, rel=0.05)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ({"model.layers.9.*": "int8-g32"}, 'The override "model.layers.9.*" fits no matrix'),
        ({"lm_head": "int9-g32"}, 'There is no quantization "int9-g32"'),
    ],
)
def test_overrides_that_mean_nothing(overrides: dict[str, str], text: str, tmp_path: Path) -> None:
    folder = make_checkpoint(preset("tiny"), 0, tmp_path / "tiny")
    with pytest.raises(UsageError) as caught:
        plan(folder, overrides=overrides, backend="onnxruntime")
    assert text in str(caught.value)
