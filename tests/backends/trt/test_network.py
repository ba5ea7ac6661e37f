"""The networks: well-formed ONNX that keeps TensorRT's rules, and exact in float32."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from arkinfer.artifact import Artifact, ArtifactWriter, open_artifact
from arkinfer.compiler.section import SectionWriter
from arkinfer.compiler.weights import WeightStore
from arkinfer.errors import DeviceError
from arkinfer.packing import QuantizedTensor
from arkinfer.runtime import registry
from arkinfer.runtime.contract import LoadOptions
from arkinfer.targets import load_target
from arkinfer_trt.compiler import TensorRTCompiler
from arkinfer_trt.kernels.gemv import Gemv, kernel_name, tactics
from arkinfer_trt.kernels.stored import read_kernels
from arkinfer_trt.kernels.works import TYPICAL
from arkinfer_trt.numbers import quantized
from arkinfer_trt.section import NETWORKS, Network, TensorRTSection
from tests.backends.expectations import REFUSED
from tests.backends.lab import Lab, Model, error
from tests.backends.models import MODELS
from tests.backends.trt.fake.network import with_functions
from tests.backends.trt.standard import Sequence, session

PARSED = frozenset(
    "Add ArkGemv Attention Cast DequantizeLinear Gather LessOrEqual MatMul Mul RMSNormalization "
    "Reshape RotaryEmbedding Shape Sigmoid Slice TensorScatter Transpose Unsqueeze".split()
)
"""What the parser of TensorRT 10.15 takes, of what this backend emits, and our plug-in."""

RUNS = [name for name in MODELS if name not in REFUSED["tensorrt"] and MODELS[name].cache == "f32"]
"""A network in float32 keeps caches in that, whatever else a board's could do."""
WHOLE = MODELS["three layers int4"]
UNTIED = MODELS["quant.embedding untied"]


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


def told(artifact: Artifact) -> TensorRTSection:
    return TensorRTSection.from_json(artifact.sections["tensorrt"].config)


def ways(model: Model) -> tuple[Network, ...]:
    """Which networks a model has: two where products are in symmetric int4."""
    linear = [node.weights[0].type for node in model.module.nodes() if node.op == "quant.linear"]
    return NETWORKS if any(str(kind).startswith("quant<int4") for kind in linear) else ("gemv",)


BOTH = [(name, way) for name in RUNS for way in ways(MODELS[name])]


@pytest.fixture
def loaded(lab: Lab) -> Callable[..., onnx.ModelProto]:
    """A network of a model as the artifact has it."""

    def load(model: Model, way: Network = "gemv") -> onnx.ModelProto:
        with open_artifact(lab.path("tensorrt", model)) as artifact:
            return onnx.load_from_string(artifact.read(told(artifact).networks[way]))

    return load


@pytest.mark.parametrize(("name", "way"), BOTH)
def test_float32_is_exact(name: str, way: Network, tmp_path: Path, lab: Lab) -> None:
    """Prefill, a part of a chunk, and a single token."""
    model = MODELS[name]
    tokens = model.tokens(20)
    with open_artifact(build(model, tmp_path / "model.ark", "f32")) as artifact:
        assert tuple(told(artifact).networks) == ways(model)
        sequence = Sequence(artifact, way)
        parts = [sequence.step(tokens[a:b]) for a, b in ((0, 16), (16, 19), (19, 20))]
    assert error(np.concatenate(parts), lab.answer(model, tokens)) < 1e-4


@pytest.mark.parametrize(("name", "way"), BOTH)
def test_the_checker_and_shape_inference_accept_it(name: str, way: Network, lab: Lab) -> None:
    """As it is, with the plug-in's types where they stand, and with what the plug-in computes."""
    with open_artifact(lab.path("tensorrt", MODELS[name])) as artifact:
        bare = onnx.load_from_string(artifact.read(told(artifact).networks[way]))
    onnx.checker.check_model(bare, full_check=True)
    onnx.checker.check_model(with_functions(bare), full_check=True)
    assert not bare.functions, "TensorRT would take it for the plug-in"
    known = types(onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True))
    missing = [out for node in bare.graph.node for out in node.output if out not in known]
    assert not missing


def types(model: onnx.ModelProto) -> dict[str, tuple[int, list[Any]]]:
    """Element type and dimensions of every value."""
    graph = model.graph
    found = {t.name: (t.data_type, list(t.dims)) for t in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.tensor_type
        shape = [d.dim_value or d.dim_param for d in kind.shape.dim]
        found[value.name] = (kind.elem_type, shape)
    return found


@pytest.fixture(
    params=[
        *[
            ("nn.linear bfloat16", "gemv"),
            ("llama int8", "gemv"),
            ("quant.linear int2-g64", "gemv"),
        ],
        *[("three layers int4", "gemv"), ("three layers int4", "native")],
    ],
    ids=" ".join,
)
def model(
    request: pytest.FixtureRequest, loaded: Callable[..., onnx.ModelProto]
) -> onnx.ModelProto:
    """A network with the types of all its values."""
    name, way = request.param
    return onnx.shape_inference.infer_shapes(loaded(MODELS[name], way), check_type=True)


def test_every_op_is_one_that_the_parser_takes(model: onnx.ModelProto) -> None:
    used = {node.domain for node in model.graph.node}
    assert {o.domain: o.version for o in model.opset_import} == {
        domain: {"": 24, "arkinfer": 1}[domain] for domain in used
    }
    assert {node.op_type for node in model.graph.node} <= PARSED


def test_every_node_says_what_it_is_for(loaded: Callable[..., onnx.ModelProto]) -> None:
    nodes = {(node.op, node.loc) for node in WHOLE.module.nodes()}
    for way in NETWORKS:
        for node in loaded(WHOLE, way).graph.node:
            said = {entry.key: entry.value for entry in node.metadata_props}
            assert (said["op"], said["loc"]) in nodes, node.name


def test_weights_are_inputs_and_constants_are_small(model: onnx.ModelProto) -> None:
    names = [value.name for value in model.graph.input]
    assert names[:5] == ["hidden", "positions", "length", "keys", "rows"]
    caches = [name for name in names if name.startswith("past.")]
    assert names[5 : 5 + len(caches)] == caches
    assert sum(tensor.ByteSize() for tensor in model.graph.initializer) < 4096
    assert not {t.name for t in model.graph.initializer} & set(names)


def test_it_is_strongly_typed(model: onnx.ModelProto) -> None:
    known = types(model)
    half = TensorProto.FLOAT16
    for node in model.graph.node:
        kinds = [known[name][0] for name in node.input]
        if node.op_type in ("Add", "Mul", "MatMul", "LessOrEqual", "RMSNormalization"):
            assert len(set(kinds)) == 1, node.name
        if node.op_type == "RotaryEmbedding":
            assert kinds == [half, half, half, TensorProto.INT64]
        if node.op_type == "ArkGemv":
            assert kinds == [half, TensorProto.INT32, half]
        floats = {known[name][0] for name in node.output} - {TensorProto.INT64, TensorProto.BOOL}
        if list(node.output) != ["logits"]:
            assert floats <= {half}, node.name


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


def test_int4_keeps_the_rules_of_dequantize_linear(
    loaded: Callable[..., onnx.ModelProto], lab: Lab
) -> None:
    model = MODELS["quant.linear int4-g64"]
    with open_artifact(lab.path("tensorrt", model)) as artifact:
        constant = {n for each in told(artifact).weights if each.constant for n in each.inputs}
    network = loaded(model, "native")
    known = types(network)
    found = [node for node in network.graph.node if node.op_type == "DequantizeLinear"]
    assert len(found) == 5
    for node in found:
        (kind, codes), (unit, scale) = (known[name] for name in node.input)  # no zero point
        assert set(node.input) <= constant
        assert {a.name: a.i for a in node.attribute} == {"axis": 0, "block_size": 64}
        assert (kind, unit) == (TensorProto.INT4, TensorProto.FLOAT16)
        assert [codes[0] // 64, codes[1]] == scale
        assert (codes[0] * codes[1]) % 2 == 0


@pytest.mark.parametrize("name", ["three layers int4", "quant.embedding untied"])
def test_both_networks_have_one_interface(
    name: str, loaded: Callable[..., onnx.ModelProto], lab: Lab
) -> None:
    """Inputs that are no weights, and outputs; and each has the weights that the section says."""
    with open_artifact(lab.path("tensorrt", MODELS[name])) as artifact:
        weights = told(artifact).weights
    sides: list[Any] = []
    for way in NETWORKS:
        graph = loaded(MODELS[name], way).graph
        own = [n for each in weights if way in each.networks for n in each.inputs]
        count = len(graph.input) - len(own)
        assert sorted(value.name for value in graph.input[count:]) == sorted(own)
        sides.append([v.SerializeToString() for v in (*graph.input[:count], *graph.output)])
    assert sides[0] == sides[1]


def test_what_is_constant(lab: Lab) -> None:
    """Never a matrix of our kernels, and no dense one."""
    found: dict[str, set[bool]] = {}
    for name in ("three layers int4", "three layers"):
        with open_artifact(lab.path("tensorrt", MODELS[name])) as artifact:
            for weight in told(artifact).weights:
                is_matrix = len(weight.stored.shape) == 2 and "rotary" not in weight.inputs[0]
                kind = "matrix" if weight.form == "dense" and is_matrix else weight.form
                found.setdefault(kind, set()).add(weight.constant)
    assert found == {"gemv": {False}, "int4": {True}, "dense": {True}, "matrix": {False}}


def test_a_tied_matrix_is_stored_once(lab: Lab) -> None:
    """The embedding's table is the head's matrix; untied, it is another one."""
    for model, shared in ((MODELS["quant.embedding int4-g32"], True), (UNTIED, False)):
        with open_artifact(lab.path("tensorrt", model)) as artifact:
            facts = told(artifact)
            heads = [each for each in facts.weights if "embed" in each.inputs[0]]
            assert {each.form for each in heads} == ({"gemv", "int4"} if shared else set())
            assert all(each.stored == facts.embedding for each in heads)
            assert facts.embedding.scheme == "int4-g32"


def test_all_matrices_are_in_packings_form(lab: Lab) -> None:
    """So that other sections share them: this one adds tables of the rotary embedding alone."""
    with open_artifact(lab.path("tensorrt", WHOLE)) as artifact:
        section = artifact.sections["tensorrt"]
        own = [name for name in section.tensors if name.startswith("tensorrt/")]
        assert all("rotary" in name for name in own)
        assert len(own) == 2
        for node in WHOLE.module.nodes():
            if node.op == "quant.linear":
                (weight,) = node.weights
                stored = next(
                    each.stored
                    for each in told(artifact).weights
                    if each.inputs[0] == f"{weight.name}.words"
                )
                got, expected = quantized(artifact, stored), WHOLE.store.load(weight)
                assert isinstance(expected, QuantizedTensor)
                np.testing.assert_array_equal(got.dequantize(), expected.dequantize())


@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_probes_compute_one_product_in_both_ways(dtype: str, lab: Lab, tmp_path: Path) -> None:
    half = dtype == "f16"
    path = lab.path("tensorrt", WHOLE) if half else build(WHOLE, tmp_path / "model.ark", dtype)
    linears = [node for node in WHOLE.module.nodes() if node.op == "quant.linear"]
    int4 = [node for node in linears if "int4" in node.weights[0].name]
    with open_artifact(path) as artifact:
        facts = told(artifact)
        assert sum(probe.times for probe in facts.probes) == len(int4)
        assert len(facts.probes) == len({node.weights[0].type for node in int4})
        weights = {each.inputs[0]: each for each in facts.weights}
        for probe in facts.probes:
            outputs: list[Any] = []
            for way in NETWORKS:
                weight = weights[probe.weights[way]]
                model = onnx.load_from_string(artifact.read(probe.files[way]))
                onnx.checker.check_model(model, full_check=True)
                assert [v.name for v in model.graph.input] == ["x", *weight.inputs]
                x = np.random.default_rng(4).normal(size=(1, 3, weight.stored.shape[1]))
                outputs += session(artifact, probe.files[way]).run(
                    ["y"], {"x": x.astype(facts.dtype)}
                )
            assert outputs[0].shape == (1, 3, weight.stored.shape[0])
            np.testing.assert_allclose(outputs[0], outputs[1], atol=2e-3 if half else 1e-5)


def test_every_kernel_that_a_network_needs_is_there_and_no_other(tmp_path: Path) -> None:
    """About as many bytes as a plan takes them for."""
    model = MODELS["quant.linear int2-g64"]
    with open_artifact(build(model, tmp_path / "model.ark", "f16")) as artifact:
        data = artifact.read(told(artifact).kernels)
    found = read_kernels(data)
    assert 0.5 < len(data) / (TYPICAL * len(found)) < 2
    products = [
        Gemv.of(node.weights[0].type.scheme, node.weights[0].type.shape)
        for node in model.module.nodes()
        if node.op == "quant.linear"
    ]
    assert set(found) == {
        kernel_name(gemv, tile) for gemv in products for tile in tactics(gemv).values()
    }
    for name, kernel in found.items():
        assert f".entry {name}(" in kernel.ptx
        assert ".target sm_87" in kernel.ptx


def test_a_network_without_codes_has_no_kernels(lab: Lab) -> None:
    with open_artifact(lab.path("tensorrt", MODELS["three layers"])) as artifact:
        facts = told(artifact)
    assert (facts.kernels, facts.probes, tuple(facts.networks)) == ("", (), ("gemv",))


def test_what_a_board_is_told(lab: Lab) -> None:
    with open_artifact(lab.path("tensorrt", WHOLE)) as artifact:
        section, facts = artifact.sections["tensorrt"], told(artifact)
    assert section.requires == {"tensorrt": ">=10.15"}
    assert json.loads(json.dumps(facts.to_json())) == section.config
    assert (facts.dtype, facts.context, facts.chunk, facts.sm) == ("float16", 48, 16, 87)
    assert (facts.vocab_size, facts.hidden_size, facts.embedding_factor) == (157, 128, 12.0)
    assert facts.caches[0].shape == (1, 2, 48, 32)
    assert [cache.name for cache in facts.caches] == ["k0", "v0", "k1", "v1", "k2", "v2"]


def test_positions_beyond_the_first_few_are_not_in_names(tmp_path: Path) -> None:
    """Names of constants stay short, however long the context is."""
    path = build(MODELS["nn.linear float16"], tmp_path / "model.ark", "f16")
    with open_artifact(path) as artifact:
        model = onnx.load_from_string(artifact.read(told(artifact).networks["gemv"]))
    assert max(len(tensor.name) for tensor in model.graph.initializer) < 100


def test_it_cannot_run_where_no_executor_is(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    entry = EntryPoint("reference", "arkinfer_ref.executor:ReferenceExecutor", registry.GROUP)
    monkeypatch.setattr(registry, "executors", lambda: {"reference": entry})
    with open_artifact(lab.path("tensorrt", WHOLE)) as artifact:
        with pytest.raises(DeviceError) as refusal:
            registry.open_section(artifact, None, LoadOptions())
    assert refusal.value.what == 'No executor for the backend "tensorrt" is installed'


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    """Kernels included."""
    model = MODELS["quant.linear int8-row"]
    paths = [build(model, tmp_path / f"{n}.ark", "f16") for n in range(2)]
    first, second = (hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    assert first == second
