"""The replay of networks in torch: its operators give what ONNX Runtime's give, whole networks what
the IR's own interpreter gives, and the command says and gates what it found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from arkinfer.artifact import open_artifact
from arkinfer.compiler.build import build as build_artifact
from arkinfer.errors import GateError, UsageError
from arkinfer.runtime.contract import LoadOptions
from arkinfer.testing import make_checkpoint
from arkinfer_trt.executor import TensorRTExecutor
from arkinfer_trt.graph import IR_VERSION, OPSET
from arkinfer_trt.section import Network
from benchmarks import replay, replay_shape, torch_executor
from benchmarks.torch_executor import TorchExecutor
from benchmarks.torch_ops import TorchNetwork
from benchmarks.torch_tensorrt import TorchEngine
from tests.backends.lab import Lab, error
from tests.backends.models import MODELS
from tests.backends.trt.fake import installed
from tests.backends.trt.fake.machine import Machine
from tests.backends.trt.fake.tensorrt_runtime import ICudaEngine
from tests.backends.trt.test_network import BOTH, build

Array = Any
HALF, LONG = np.float16, np.int64


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(HALF)


OPS: dict[str, tuple[dict[str, Array], dict[str, Array], dict[str, Any]]] = {
    "Add": ({"a": normal(1, 3, 8), "b": normal(1, 3, 8, seed=1)}, {}, {}),
    "Attention": (
        {
            "q": normal(1, 6, 3, 8),
            "k": normal(1, 2, 10, 8, seed=1),
            "v": normal(1, 2, 10, 8, seed=2),
            "mask": (np.arange(10) <= np.array([4, 5, 6])[:, None])[None, None],
        },
        {},
        {"scale": 0.3},
    ),
    "Cast": ({"x": normal(1, 2, 5)}, {}, {"to": TensorProto.FLOAT}),
    "Gather": ({"x": normal(1, 7, 4), "rows": np.array([6, 0, 3])}, {}, {"axis": 1}),
    "LessOrEqual": ({"a": np.arange(9)[None, None, None], "b": np.array([[[[2]], [[7]]]])}, {}, {}),
    "MatMul": ({"a": normal(1, 3, 32), "b": normal(32, 5, seed=1)}, {}, {}),
    "Mul": ({"a": normal(1, 3, 8)}, {"by": np.asarray(0.49, HALF)}, {}),
    "RMSNormalization": (
        {"x": normal(1, 3, 64), "scale": normal(64, seed=1)},
        {},
        {"epsilon": 1e-5},
    ),
    "Reshape": ({"x": normal(1, 3, 24)}, {"shape": np.array([1, -1, 4, 6])}, {}),
    "RotaryEmbedding": (
        {
            "x": normal(1, 4, 3, 16),
            "cos": np.cos(np.arange(160).reshape(20, 8)).astype(HALF),
            "sin": np.sin(np.arange(160).reshape(20, 8)).astype(HALF),
            "positions": np.array([[3, 4, 19]]),
        },
        {},
        {},
    ),
    "Shape": ({"x": normal(1, 3, 7)}, {}, {}),
    "Sigmoid": ({"x": 4 * normal(1, 3, 64)}, {}, {}),
    "Slice": (
        {"x": normal(1, 6, 3, 4)},
        {"starts": np.array([2]), "ends": np.array([5]), "axes": np.array([1])},
        {},
    ),
    "TensorScatter": (
        {"past": normal(1, 2, 9, 4), "new": normal(1, 2, 3, 4, seed=1), "start": np.array([5])},
        {},
        {"axis": -2},
    ),
    "Transpose": ({"x": normal(1, 3, 4, 5)}, {}, {"perm": [0, 2, 1, 3]}),
    "Unsqueeze": ({"x": np.array([[4, 5]])}, {"axes": np.array([1, 3])}, {}),
}
"""Inputs, constants and attributes."""


@pytest.mark.parametrize("op", OPS)
def test_operators_give_what_onnx_runtimes_give(op: str) -> None:
    inputs, constants, attributes = OPS[op]
    model = one_node(op, inputs, constants, attributes)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (expected,) = session.run(None, inputs)
    network = TorchNetwork(model, "cpu", no_product)
    (found,) = network.run({n: torch.from_numpy(a.copy()) for n, a in inputs.items()}).values()
    assert found.numpy().dtype == expected.dtype
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-3, atol=1e-3)


def one_node(
    op: str, inputs: dict[str, Array], constants: dict[str, Array], attributes: dict[str, Any]
) -> onnx.ModelProto:
    def described(name: str, array: Array) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )

    node = helper.make_node(op, [*inputs, *constants], ["y"], **attributes)
    kinds = {"LessOrEqual": TensorProto.BOOL, "Shape": TensorProto.INT64}
    kind = {"Cast": TensorProto.FLOAT, **kinds}.get(
        op, helper.np_dtype_to_tensor_dtype(next(iter(inputs.values())).dtype)
    )
    graph = helper.make_graph(
        [node],
        "one",
        [described(name, array) for name, array in inputs.items()],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )


def no_product(*_: Any) -> Any:
    raise AssertionError("there is none")


def test_caches_are_written_in_place() -> None:
    inputs, _, attributes = OPS["TensorScatter"]
    network = TorchNetwork(one_node("TensorScatter", inputs, {}, attributes), "cpu", no_product)
    tensors = {name: torch.from_numpy(array.copy()) for name, array in inputs.items()}
    (present,) = network.run(tensors).values()
    assert present.data_ptr() == tensors["past"].data_ptr()


def test_what_it_does_not_know_is_refused() -> None:
    x = {"x": normal(1, 4)}
    with pytest.raises(ValueError, match="there is no torch for Softplus"):
        TorchNetwork(one_node("Softplus", x, {}, {}), "cpu", no_product)
    inputs, _, attributes = OPS["Attention"]
    attributes = {**attributes, "softcap": 2.0}
    with pytest.raises(ValueError, match=r"Attention has the attributes \['scale', 'softcap'\]"):
        TorchNetwork(one_node("Attention", inputs, {}, attributes), "cpu", no_product)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.mark.parametrize(("name", "way"), BOTH)
def test_networks_are_exact_in_float32(name: str, way: Network, tmp_path: Path, lab: Lab) -> None:
    """Prefill, a part of a chunk, and a single token."""
    model = MODELS[name]
    tokens = model.tokens(20)
    with open_artifact(build(model, tmp_path / "model.ark", "f32")) as artifact:
        section = artifact.sections["tensorrt"]
        opened = TorchExecutor(way, "cpu").open(artifact, section, LoadOptions(1))
    state = opened.new_state(24)
    parts = [state.step(tokens[a:b], rows="all").logits for a, b in ((0, 16), (16, 19), (19, 20))]
    assert error(np.concatenate(parts), lab.answer(model, tokens)) < 1e-4
    state.truncate(16)
    again = state.step(tokens[16:19], rows="last").logits
    np.testing.assert_allclose(again, parts[1][-1:], rtol=1e-4, atol=1e-5)
    opened.close()
    with pytest.raises(UsageError):
        state.step(tokens[:1])


class OurExecutorOnTorch:
    """With the fake's memory and streams, and engines that compute in torch."""

    name = "tensorrt"

    def __init__(self, way: Network, monkeypatch: pytest.MonkeyPatch) -> None:
        self.machine, self._way = Machine(), way
        plain, multiply = ICudaEngine.__init__, torch_executor.unpacked()

        def init(engine: ICudaEngine, *given: Any) -> None:
            plain(engine, *given)
            monkeypatch.setattr(
                engine, "compute", TorchEngine(engine, self.at, "cpu", multiply).compute
            )

        monkeypatch.setattr(ICudaEngine, "__init__", init)

    def at(self, address: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        nbytes = int(np.prod(shape)) * dtype.itemsize
        return torch.from_numpy(self.machine.read(address, nbytes)).view(dtype).reshape(shape)

    def open(self, artifact: Any, section: Any, options: LoadOptions) -> Any:
        with installed(self.machine):
            return TensorRTExecutor().open(artifact, section, LoadOptions(network=self._way))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["gemv", "native"])
def test_our_executor_runs_on_it(way: Network, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines whose numbers are where the executor bound them, decoding as a graph."""
    model = MODELS["three layers int4"]
    tokens = model.tokens(20)
    ours = OurExecutorOnTorch(way, monkeypatch)
    with open_artifact(lab.path("tensorrt", model)) as artifact:
        opened = ours.open(artifact, artifact.sections["tensorrt"], LoadOptions())
        state = opened.new_state(24)
        parts = [state.step(tokens[:16], rows="all").logits]
        parts += [state.step(tokens[i : i + 1]).logits for i in range(16, 20)]
        opened.close()
    assert ours.machine.launches > 0
    assert error(np.concatenate(parts), lab.answer(model, tokens)) < 2e-2


@pytest.mark.parametrize("tokens", [1, 5])
def test_the_network_of_a_preset_needs_no_weights(tokens: int) -> None:
    schemes = {"linear": "int4-g32", "embedding": "int8-g32"}
    model = replay_shape.network("tiny", schemes, context=64, chunk=16)
    assert len(replay_shape.products(model)) == 11
    given = replay_shape.inputs(model, tokens, 32, "cpu")
    logits = TorchNetwork(model, "cpu", torch_executor.unpacked()).run(given)["logits"]
    assert logits.shape[:2] == (1, 1)
    assert logits.isfinite().all()


@pytest.mark.slow
def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a whole build, in float16, with both networks."""
    text = tmp_path / "text"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 20)
    monkeypatch.setattr(replay, "TEXT", text)
    path = tmp_path / "model.ark"
    build_artifact(
        make_checkpoint("tiny", 0, tmp_path / "checkpoint"),
        quant="int4-g32",
        target="jetson-orin",
        backend=("tensorrt", "reference"),
        output=path,
    )
    asked = [str(path), "--device", "cpu", "--tokens", "150", "--decode", "3", "--most", "1e-3"]
    for network in ("gemv", "native"):
        assert replay.main([*asked, "--network", network]) == 0
        first, second = capsys.readouterr().out.splitlines()
        assert first.startswith("150 tokens: mean KL ")
        assert " tokens per second behind " in second
    monkeypatch.setattr(torch_executor, "unpacked", lambda: lambda gemv, x, words, scale: (
        torch.ones((len(x), gemv.width), dtype=x.dtype)
    ))  # fmt: skip
    assert replay.main(asked) == GateError.exit_code
    assert "error: The mean KL is " in capsys.readouterr().err


def test_what_cannot_be_replayed_is_said(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay.main(["model.ark", "--device", "cpu", "--executor"]) == 2
    said = "error: A board's executor needs CUDA. Leave out --device cpu.\n"
    assert capsys.readouterr().err == said
    path = build(MODELS["three layers"], tmp_path / "model.ark", "f32")
    with open_artifact(path) as artifact, pytest.raises(UsageError) as refusal:
        TorchExecutor("native", "cpu").open(artifact, artifact.sections["tensorrt"], LoadOptions())
    assert str(refusal.value) == 'There is no network "native". It has gemv.'


def test_a_machine_without_a_gpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert replay.main(["model.ark"]) == 4
    assert capsys.readouterr().err.startswith("error: Kernels cannot be run. PyTorch finds no CUDA")
