"""The network: well-formed ONNX that keeps TensorRT's rules, and exact when it runs in float32."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from arkinfer.artifact import ArtifactWriter, open_artifact
from arkinfer.compiler.section import SectionWriter
from arkinfer.compiler.weights import WeightStore
from arkinfer.errors import DeviceError, UnsupportedError
from arkinfer.ir import Weight
from arkinfer.packing import QuantizedTensor
from arkinfer.runtime import registry
from arkinfer.runtime.contract import LoadOptions
from arkinfer.targets import load_target
from arkinfer_trt.compiler import TensorRTCompiler
from tests.backends.expectations import REFUSED
from tests.backends.lab import Lab, LabStore, Model, error
from tests.backends.models import MODELS
from tests.backends.trt.runner import TensorRTOnCpu, network

PARSED = frozenset(
    "Add Attention Cast DequantizeLinear Gather LessOrEqual MatMul Mul RMSNormalization Reshape "
    "RotaryEmbedding Sigmoid Slice TensorScatter Transpose Unsqueeze".split()
)
"""What the parser of TensorRT 10.15 takes, of what this backend emits."""

RUNS = [name for name in MODELS if name not in REFUSED["tensorrt"]]
WHOLE = MODELS["three layers int4"]


def build(model: Model, path: Path, dtype: str, store: WeightStore | None = None) -> Path:
    with ArtifactWriter(path) as artifact:
        section = SectionWriter("tensorrt", artifact, store or model.store)
        TensorRTCompiler(dtype).compile(model.module, load_target("jetson-orin"), section)
        section.finish()
        return artifact.commit(
            {
                "model": {"name": "lab", "architecture": "MiniCPMForCausalLM"},
                "context": model.context,
                "quant": "test",
                "dtype": "fp32",
                "target": {"name": "jetson-orin"},
                "tokens": {"bos": 1, "stop": [2]},
            }
        )


@pytest.fixture
def saved(lab: Lab, tmp_path: Path) -> Callable[..., Path]:
    """The network of a model as a file beside its external data."""

    def save(model: Model, dtype: str = "f16") -> Path:
        path = build(model, tmp_path / "model.ark", dtype)
        with open_artifact(path) as artifact:
            onnx.save(network(artifact, artifact.sections["tensorrt"]), tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return save


@pytest.mark.parametrize("name", RUNS)
def test_float32_is_exact(name: str, tmp_path: Path, lab: Lab) -> None:
    """Prefill, a part of a chunk, and a single token."""
    model = MODELS[name]
    tokens = model.tokens(20)
    with open_artifact(build(model, tmp_path / "model.ark", "f32")) as artifact:
        section = artifact.sections["tensorrt"]
        state = TensorRTOnCpu().open(artifact, section, LoadOptions(2)).new_state(24)
    parts = [state.step(tokens[a:b], rows="all").logits for a, b in ((0, 16), (16, 19), (19, 20))]
    assert error(np.concatenate(parts), lab.answer(model, tokens)) < 1e-4


@pytest.mark.parametrize("dtype", ["f16", "f32"])
@pytest.mark.parametrize("name", ["three layers", "three layers int4", "llama int8"])
def test_the_checker_and_shape_inference_accept_it(
    name: str, dtype: str, saved: Callable[..., Path]
) -> None:
    onnx.checker.check_model(str(saved(MODELS[name], dtype)), full_check=True)


@pytest.fixture(params=["nn.linear bfloat16", "three layers int4", "llama int8"])
def model(request: pytest.FixtureRequest, saved: Callable[..., Path]) -> onnx.ModelProto:
    """A network with the types of all its values."""
    loaded = onnx.load(saved(MODELS[request.param]), load_external_data=True)
    return onnx.shape_inference.infer_shapes(loaded, check_type=True, strict_mode=True)


def types(model: onnx.ModelProto) -> dict[str, tuple[int, list[Any]]]:
    """Element type and dimensions of every value."""
    graph = model.graph
    found = {t.name: (t.data_type, list(t.dims)) for t in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.tensor_type
        shape = [d.dim_value or d.dim_param for d in kind.shape.dim]
        found[value.name] = (kind.elem_type, shape)
    return found


def test_every_op_is_one_that_the_parser_takes(model: onnx.ModelProto) -> None:
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 24)]
    assert {node.op_type for node in model.graph.node} <= PARSED
    assert not model.functions


def test_it_is_strongly_typed(model: onnx.ModelProto) -> None:
    known = types(model)
    for node in model.graph.node:
        kinds = [known[name][0] for name in node.input]
        if node.op_type in ("Add", "Mul", "MatMul", "LessOrEqual", "RMSNormalization"):
            assert len(set(kinds)) == 1, node.name
        if node.op_type == "RotaryEmbedding":
            half = TensorProto.FLOAT16
            assert kinds == [half, half, half, TensorProto.INT64]
        floats = {known[name][0] for name in node.output} - {TensorProto.INT64, TensorProto.BOOL}
        if list(node.output) != ["logits"]:
            assert floats <= {TensorProto.FLOAT16}, node.name


def test_attention_is_within_the_parser(model: onnx.ModelProto) -> None:
    known = types(model)
    found = [node for node in model.graph.node if node.op_type == "Attention"]
    assert found
    for node in found:
        assert (len(node.input), len(node.output)) == (4, 1)
        assert {a.name for a in node.attribute} == {"scale"}
        assert all(len(known[name][1]) == 4 for name in node.input)
        assert known[node.input[3]][0] == TensorProto.BOOL


def test_caches_are_updated_in_place(model: onnx.ModelProto) -> None:
    """A cache is an input, scattered into once; the result is an output of the same shape."""
    known = types(model)
    inputs, outputs = ([v.name for v in side] for side in (model.graph.input, model.graph.output))
    found = [node for node in model.graph.node if node.op_type == "TensorScatter"]
    assert len(found) == len([name for name in inputs if name.startswith("past.")])
    for node in found:
        past, update, index = node.input
        (present,) = node.output
        assert past in inputs
        assert present in outputs
        assert present == past.replace("past.", "present.")
        assert known[past] == known[present]
        assert all(isinstance(d, int) for d in known[past][1]), "the capacity is static"
        assert len(known[update][1]) == 4
        assert known[index] == (TensorProto.INT64, [1])
        assert {a.name: a.i for a in node.attribute} == {"axis": -2}
        readers = [n.op_type for n in model.graph.node if past in n.input]
        assert readers == ["TensorScatter"]


def test_int4_keeps_the_rules_of_dequantize_linear(saved: Callable[..., Path]) -> None:
    model = onnx.load(saved(MODELS["quant.linear int4-g64"]), load_external_data=True)
    tensors = {t.name: t for t in model.graph.initializer}
    found = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    assert len(found) == 5
    for node in found:
        codes, scale = (tensors[name] for name in node.input)  # no zero point
        assert {a.name: a.i for a in node.attribute} == {"axis": 0, "block_size": 64}
        assert codes.data_type == TensorProto.INT4
        assert scale.data_type == TensorProto.FLOAT16
        assert [codes.dims[0] // 64, codes.dims[1]] == list(scale.dims)
        assert (numpy_helper.to_array(scale) > 0).all()
        assert (codes.dims[0] * codes.dims[1]) % 2 == 0


@pytest.mark.parametrize("scheme", ["int4-g16", "int4-g128", "int4-row"])
def test_codes_mean_the_same_as_the_canonical_form(scheme: str, saved: Callable[..., Path]) -> None:
    lab_model = MODELS[f"quant.linear {scheme}"]
    model = onnx.load(saved(lab_model, "f32"), load_external_data=True)
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    checked = 0
    for node in lab_model.module.nodes():
        if node.op == "quant.linear":
            (weight,) = node.weights
            expected = lab_model.store.load(weight)
            assert isinstance(expected, QuantizedTensor)
            codes = tensors[f"{weight.name}.int4"].astype(np.float32)
            scale = tensors[f"{weight.name}.int4.scale"]
            block = codes.shape[0] // scale.shape[0]
            got = codes * np.repeat(scale, block, axis=0)
            np.testing.assert_array_equal(got.T, expected.dequantize())
            checked += 1
    assert checked == 5


class Scaled(LabStore):
    """A store whose quantized matrices have their scales multiplied."""

    def __init__(self, model: Model, factor: float) -> None:
        super().__init__(model.module.weights, model.leaves)
        self.factor = np.float32(factor)

    def rows(self, weight: Weight, start: int, stop: int) -> Any:
        rows = super().rows(weight, start, stop)
        if not isinstance(rows, QuantizedTensor):
            return rows
        parts = rows.parts()
        return QuantizedTensor.from_parts(
            rows.scheme, rows.shape, {**parts, "scale": parts["scale"] * self.factor}
        )


def test_negative_scales_are_refused(tmp_path: Path) -> None:
    model = MODELS["quant.linear int4-g32"]
    with pytest.raises(UnsupportedError) as refusal:
        build(model, tmp_path / "model.ark", "f16", Scaled(model, -1))
    assert str(refusal.value) == (
        "@model.layers.0.self_attn.qkv_proj.weight.int4-g32 has negative scales. TensorRT "
        "dequantizes with positive ones only. Quantize the unquantized checkpoint anew."
    )


def test_scales_that_float16_cannot_hold_stay_positive(tmp_path: Path) -> None:
    model = MODELS["quant.linear int4-g32"]
    path = build(model, tmp_path / "model.ark", "f16", Scaled(model, 1e-12))
    with open_artifact(path) as artifact:
        names = [n for n in artifact.sections["tensorrt"].tensors if n.endswith(".int4.scale")]
        assert names
        assert all((artifact.tensor(name) > 0).all() for name in names)


def test_a_shared_table_is_stored_once(saved: Callable[..., Path]) -> None:
    """A tied int8 matrix is widened once, for the embedding and for the head."""
    model = onnx.load(saved(WHOLE), load_external_data=False)
    wide = [t for t in model.graph.initializer if t.name.endswith(".wide")]
    assert len(wide) == 1
    users = [n.op_type for n in model.graph.node if wide[0].name in n.input]
    assert sorted(users) == ["Gather", "Transpose"]


def test_an_unzipped_artifact_is_all_that_another_tool_needs(lab: Lab, tmp_path: Path) -> None:
    with zipfile.ZipFile(lab.path("tensorrt", WHOLE)) as archive:
        archive.extractall(tmp_path)
    path = shutil.copy(tmp_path / "backends/tensorrt/network.onnx", tmp_path)
    onnx.checker.check_model(str(path), full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds: dict[str, Any] = {
        "tokens": np.array([[3]]),
        "rows": np.array([0]),
        "positions": np.array([[0]]),
        "length": np.array([0]),
    }
    for value in session.get_inputs():
        if value.name not in feeds:
            feeds[value.name] = np.zeros(value.shape, np.float16)
    (logits,) = session.run(["logits"], feeds)
    assert error(logits[0], lab.answer(WHOLE, np.array([3]))) < 0.01


def test_external_data_are_the_entries_of_the_file(lab: Lab) -> None:
    with open_artifact(lab.path("tensorrt", WHOLE)) as artifact:
        section = artifact.sections["tensorrt"]
        raw = onnx.load_from_string(artifact.read(section.config["network"]))
        external = [t for t in raw.graph.initializer if t.data_location == TensorProto.EXTERNAL]
        locations = {e.value for t in external for e in t.external_data if e.key == "location"}
        assert locations == {f"weights/{name}" for name in section.tensors}
        assert all(location in artifact for location in locations)
        inline = sum(t.ByteSize() for t in raw.graph.initializer) - sum(
            t.ByteSize() for t in external
        )
        assert inline < 4096


def test_what_a_board_is_told(lab: Lab) -> None:
    with open_artifact(lab.path("tensorrt", WHOLE)) as artifact:
        section = artifact.sections["tensorrt"]
    assert section.requires == {"tensorrt": ">=10.15"}
    config = section.config
    assert (config["opset"], config["dtype"], config["strongly_typed"]) == (24, "float16", True)
    assert config["caches"][0] == {"name": "k0", "shape": [1, 2, 48, 32]}
    assert len(config["caches"]) == 6
    assert config["profiles"]["decode"]["tokens"] == [[1, 1], [1, 1], [1, 1]]
    assert config["profiles"]["prefill"]["rows"] == [[1], [16], [16]]


def test_it_cannot_run_where_no_executor_is(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    entry = EntryPoint("reference", "arkinfer_ref.executor:ReferenceExecutor", registry.GROUP)
    monkeypatch.setattr(registry, "executors", lambda: {"reference": entry})
    with open_artifact(lab.path("tensorrt", WHOLE)) as artifact:
        with pytest.raises(DeviceError) as refusal:
            registry.open_section(artifact, None, LoadOptions())
    assert refusal.value.what == 'No executor for the backend "tensorrt" is installed'


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = {
        hashlib.sha256(build(WHOLE, tmp_path / f"{n}.ark", "f16").read_bytes()).hexdigest()
        for n in range(2)
    }
    assert len(digests) == 1
