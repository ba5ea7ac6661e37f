"""The fake of TensorRT and CUDA: its signatures are NVIDIA's, and it refuses what they refuse."""

from __future__ import annotations

import ast
import contextlib
import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.backends.trt.fake import cuda_runtime, tensorrt
from tests.backends.trt.fake.cuda_runtime import cudaError_t
from tests.backends.trt.fake.machine import FIRST, Machine
from tests.backends.trt.fake.tensorrt_runtime import ILogger, Runtime

PARTS = (*tensorrt.PARTS, tensorrt.Builder, Runtime)


def methods(kind: type) -> dict[str, list[str]]:
    """Public methods that a class of the fake has itself, and their parameters."""
    return {
        name: list(inspect.signature(value).parameters)
        for name, value in vars(kind).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }


OWN = {"ICudaEngine.say", "ICudaEngine.compute", "IBuilderConfig.timed"}
"""Of the fake, which the executor does not call."""


def stubbed(text: str) -> dict[str, list[list[str]]]:
    """Parameters of "class.method", each way to call it; a few have names that Python cannot."""
    found: dict[str, list[list[str]]] = {}
    kind = ""
    for line in text.splitlines():
        if line.startswith("class "):
            kind = re.split(r"\W", line)[1]
        elif line.startswith("    def "):
            with contextlib.suppress(SyntaxError):
                (node,) = ast.parse(f"{line.strip()} ...").body
                assert isinstance(node, ast.FunctionDef)
                parameters = [each.arg for each in node.args.args]
                found.setdefault(f"{kind}.{node.name}", []).append(parameters)
    return found


def test_signatures_are_those_of_nvidias_bindings(stubs: Path) -> None:
    real = stubbed((stubs / "tensorrt/__init__.pyi").read_text("utf-8"))
    ours = {f"{kind.__name__}.{name}": p for kind in PARTS for name, p in methods(kind).items()}
    compared = ours.keys() - OWN
    assert {name for name in compared if ours[name] not in real[name]} == set()
    assert len(compared) >= 32


def test_functions_are_those_of_cuda() -> None:
    """Both packages have the same ones with the same parameters."""
    real = pytest.importorskip("cuda.bindings.runtime")
    fake = cuda_runtime.module(Machine())
    names = [name for name in vars(fake) if inspect.ismethod(getattr(fake, name))]
    for name in names:
        expected = list(inspect.signature(getattr(real, name)).parameters)
        assert list(inspect.signature(getattr(fake, name)).parameters) == expected, name
    assert len(names) > 25


def test_numbers_of_enumerations_are_cudas() -> None:
    real = pytest.importorskip("cuda.bindings.runtime")
    for kind in (
        cuda_runtime.cudaError_t,
        cuda_runtime.cudaMemcpyKind,
        cuda_runtime.cudaStreamCaptureMode,
        cuda_runtime.cudaDeviceAttr,
    ):
        for member in kind:
            assert int(getattr(getattr(real, kind.__name__), member.name)) == int(member)


class Heard(ILogger):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def log(self, severity: ILogger.Severity, msg: str) -> None:
        self.said.append(msg)


def doubled(opset: int = 24) -> bytes:
    """y = x + x, float32 [T, 4]."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["T", 4]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", [x], [y])
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=12).SerializeToString()


class Session:
    """A machine, its modules, and an engine that doubles up to eight rows."""

    def __init__(self) -> None:
        self.machine, self.heard = Machine(), Heard()
        self.cuda: Any = cuda_runtime.module(self.machine)
        self.trt: Any = tensorrt.module(self.machine)
        self.stream = self.cuda.cudaStreamCreateWithFlags(1)[1]

    def plan(self, *profiles: tuple[int, int, int]) -> Any:
        builder = self.trt.Builder(self.heard)
        network = builder.create_network(1 << 1)
        parser = self.trt.OnnxParser(network, self.heard)
        assert parser.load_model_proto(doubled())
        assert parser.parse_model_proto()
        config = builder.create_builder_config()
        for sizes in profiles:
            profile = builder.create_optimization_profile()
            profile.set_shape("x", *((n, 4) for n in sizes))
            config.add_optimization_profile(profile)
        return builder.build_serialized_network(network, config)

    def context(self) -> Any:
        engine = self.trt.Runtime(self.heard).deserialize_cuda_engine(self.plan((1, 8, 8)))
        context = engine.create_execution_context()
        context.set_optimization_profile_async(0, int(self.stream))
        return context


@pytest.fixture
def session() -> Session:
    return Session()


def test_it_computes_when_somebody_waits(session: Session) -> None:
    machine, context = session.machine, session.context()
    x, y = (session.cuda.cudaMalloc(128)[1] for _ in range(2))
    machine.write(x, np.arange(12, dtype=np.float32).view(np.uint8))
    assert context.set_input_shape("x", (3, 4))
    assert context.set_tensor_address("x", x)
    assert context.set_tensor_address("y", y)
    assert context.execute_async_v3(int(session.stream))
    assert np.isnan(machine.read(y, 48).view(np.float32)).all()
    session.cuda.cudaStreamSynchronize(session.stream)
    np.testing.assert_array_equal(machine.read(y, 48).view(np.float32), 2.0 * np.arange(12))


def test_shapes_outside_of_the_profile(session: Session) -> None:
    context = session.context()
    assert not context.set_input_shape("x", (9, 4))
    assert not context.set_input_shape("x", (3, 5))
    assert not context.set_input_shape("x", (3,))
    assert not context.execute_async_v3(int(session.stream))
    assert session.heard.said[-1] == "Address is not set for x"


def test_an_address_must_be_the_devices(session: Session) -> None:
    context = session.context()
    x = session.cuda.cudaMalloc(64)[1]
    context.set_input_shape("x", (8, 4))
    for name in "xy":
        context.set_tensor_address(name, x)
    with pytest.raises(AssertionError, match=r"128 bytes at .* reach beyond"):
        context.execute_async_v3(int(session.stream))
    with pytest.raises(AssertionError, match="is no address of the device"):
        session.machine.find(FIRST - 1, 1)


def test_freed_memory_is_gone(session: Session) -> None:
    address = session.cuda.cudaMalloc(64)[1]
    assert session.cuda.cudaFree(address) == (cudaError_t.cudaSuccess,)
    assert session.cuda.cudaFree(address) == (cudaError_t.cudaErrorInvalidValue,)
    with pytest.raises((AssertionError, KeyError)):
        session.machine.read(address, 1)


def test_results_go_to_pinned_memory_only(session: Session) -> None:
    address, array = session.cuda.cudaMalloc(64)[1], np.zeros(64, np.uint8)
    kind = session.cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
    with pytest.raises(AssertionError, match="are not pinned"):
        session.cuda.cudaMemcpyAsync(array.ctypes.data, address, 64, kind, session.stream)


def test_what_is_captured_runs_at_launch_only(session: Session) -> None:
    cuda, machine, stream = session.cuda, session.machine, session.stream
    address = cuda.cudaMalloc(4)[1]
    machine.write(address, np.ones(4, np.uint8))
    cuda.cudaStreamBeginCapture(stream, cuda.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed)
    cuda.cudaMemsetAsync(address, 0, 4, stream)
    assert cuda.cudaStreamSynchronize(stream)[0] != cudaError_t.cudaSuccess
    graph = cuda.cudaStreamEndCapture(stream)[1]
    launched = cuda.cudaGraphInstantiate(graph, 0)[1]
    cuda.cudaGraphDestroy(graph)
    cuda.cudaStreamSynchronize(stream)
    assert machine.read(address, 4).all()
    cuda.cudaGraphLaunch(launched, stream)
    cuda.cudaStreamSynchronize(stream)
    assert not machine.read(address, 4).any()
    cuda.cudaGraphExecDestroy(launched)
    with pytest.raises(AssertionError, match="was destroyed"):
        cuda.cudaGraphLaunch(launched, stream)


def test_a_network_is_strongly_typed(session: Session) -> None:
    with pytest.raises(AssertionError):
        session.trt.Builder(session.heard).create_network(0)


def test_every_profile_says_all_shapes(session: Session) -> None:
    assert session.plan() is None
    assert "no optimization profile" in session.heard.said[-1]


def test_an_engine_of_another_device_is_refused(session: Session) -> None:
    plan = session.plan((1, 8, 8))
    session.machine.sm = 89
    assert session.trt.Runtime(session.heard).deserialize_cuda_engine(plan) is None
    assert session.trt.Runtime(session.heard).deserialize_cuda_engine(b"junk") is None
    assert len(session.heard.said) == 2


def test_the_logger_has_to_be_begun(session: Session) -> None:
    class Lazy(ILogger):
        def __init__(self) -> None:
            pass

    with pytest.raises(AssertionError, match="the logger's own __init__"):
        session.trt.Builder(Lazy())


def parsed(session: Session, node: onnx.NodeProto, more: list[str] | None = None) -> list[str]:
    """What the parser says of a network of one node, inputs float32 [4]."""
    names = [*node.input, *(more or [])]
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in names]
    output = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", inputs, [output])
    opsets = [helper.make_opsetid("", 24), helper.make_opsetid("other", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=12)
    network = session.trt.Builder(session.heard).create_network(1 << 1)
    parser = session.trt.OnnxParser(network, session.heard)
    parser.load_model_proto(model.SerializeToString())
    parser.parse_model_proto()
    return [parser.get_error(i).desc() for i in range(parser.num_errors)]


def test_the_parser_refuses_what_it_does_not_know(session: Session) -> None:
    (said,) = parsed(session, helper.make_node("Mystery", ["a"], ["y"], domain="other"))
    assert said.startswith("Plugin not found")
    scale = helper.make_node("DequantizeLinear", ["a", "b"], ["y"])
    (said,) = parsed(session, scale)
    assert said == "The scale input must be a build-time constant"


def test_attention_has_to_be_allowed_to_decompose(session: Session) -> None:
    """As where TensorRT has no kernel for all of it; layers come in the class of all layers."""
    node = helper.make_node("Attention", ["x", "x", "x"], ["y"])
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2, 4, 8]) for n in "xy")
    graph = helper.make_graph([node], "g", [x], [y])
    opsets = [helper.make_opsetid("", 24)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=12)
    builder = session.trt.Builder(session.heard)
    network = builder.create_network(1 << 1)
    parser = session.trt.OnnxParser(network, session.heard)
    parser.load_model_proto(model.SerializeToString())
    assert parser.parse_model_proto()
    assert builder.build_serialized_network(network, builder.create_builder_config()) is None
    assert session.heard.said[-1].endswith("Could not find any implementation for node Attention")
    layer = network.get_layer(network.num_layers - 1)
    assert not hasattr(layer, "attention")
    layer.__class__ = session.trt.IAttentionOutputLayer
    layer.attention.decomposable = True
    assert builder.build_serialized_network(network, builder.create_builder_config()) is not None


def test_initializers_have_to_be_of_their_size(session: Session) -> None:
    model = onnx.load_from_string(doubled())
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT16, dims=[2, 3])
    tensor.data_location = TensorProto.EXTERNAL
    model.graph.initializer.append(tensor)
    network = session.trt.Builder(session.heard).create_network(1 << 1)
    parser = session.trt.OnnxParser(network, session.heard)
    with pytest.raises(AssertionError, match="load_model_proto comes first"):
        parser.load_initializer("w", 1, 12)
    parser.load_model_proto(model.SerializeToString())
    assert not parser.load_initializer("v", 1, 12)
    assert not parser.load_initializer("w", 1, 11)
    assert not parser.parse_model_proto()
    assert [parser.get_error(i).desc() for i in range(parser.num_errors)] == [
        "v is no initializer",
        "w has 6 numbers, not 11 bytes",
        "Failed to open the file of w",
    ]
