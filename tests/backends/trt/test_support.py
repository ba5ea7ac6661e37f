"""What TensorRT and our kernels take, and what they say of the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from arkinfer import ir
from arkinfer.artifact import ArtifactWriter, open_artifact
from arkinfer.backend import Support
from arkinfer.compiler.section import SectionWriter
from arkinfer.errors import UnsupportedError
from arkinfer.ir import QuantizedType, TensorType, Value, Weight
from arkinfer.packing import parse_scheme
from arkinfer.targets import load_target
from arkinfer_trt.compiler import TensorRTCompiler
from arkinfer_trt.section import TensorRTSection
from tests.backends.models import MODELS

INSTALL = 'pip install "arkinfer[kernels]"'


def linear(scheme: str, target: str = "jetson-orin", inputs: int = 256) -> Support:
    weight = Weight("matrix", QuantizedType(parse_scheme(scheme), (64, inputs)))
    builder = ir.Builder(ir.infer_types)
    x = Value(TensorType("f32", (ir.dim("T"), inputs)), "x")
    attributes = ir.complete_attributes("quant.linear", {})
    builder.add("quant.linear", x, weight, **attributes)
    return TensorRTCompiler().supports(builder.nodes[0], load_target(target))


@pytest.fixture
def no_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arkinfer_trt.support.has_triton", lambda: False)


@pytest.mark.parametrize("scheme", ["int2-g64", "int2-row", "int4-g8", "int4-g128", "int8-row"])
def test_kernels_of_our_own(scheme: str) -> None:
    pytest.importorskip("triton")
    assert linear(scheme) == Support.fast()


@pytest.mark.parametrize(
    ("scheme", "reason"),
    [
        ("int4-g128-asym", "our kernels and TensorRT multiply by symmetric weights only"),
        ("int4-g32-min", "our kernels and TensorRT multiply by symmetric weights only"),
        ("int4-g32-actorder", "neither has the inputs of a matrix in another order"),
        ("int3-g32", "our kernels multiply by 2, 4, 8 bits, not 3"),
        ("int4-g4", "groups of 4 must divide the inputs, and fill words of 8 codes"),
    ],
)
def test_what_no_kernel_multiplies_by(scheme: str, reason: str) -> None:
    assert linear(scheme) == Support.no(reason)


def test_without_triton_int4_is_left_to_tensorrt(no_triton: None) -> None:
    found = linear("int4-g128")
    assert found.level == "slow"
    assert found.reason.endswith(INSTALL)


@pytest.mark.parametrize("scheme", ["int2-row", "int8-g32"])
def test_without_triton_other_codes_have_no_kernel(scheme: str, no_triton: None) -> None:
    bits = scheme[3]
    assert linear(scheme) == Support.no(
        f"TensorRT has no {bits} bits of its own, and our kernels are compiled with Triton, which "
        f"is not installed: {INSTALL}"
    )


def test_a_target_without_such_a_gpu() -> None:
    found = linear("int4-g128", "cpu")
    assert found == Support.no(
        "cpu has no GPU that networks are made for (sm_80, sm_86, sm_87, sm_89, sm_90)"
    )


def build(text: Any, store: Any, path: Path) -> Path:
    module = ir.parse_module(text) if isinstance(text, str) else text
    with ArtifactWriter(path) as artifact:
        writer = SectionWriter("tensorrt", artifact, store)
        TensorRTCompiler().compile(module, load_target("jetson-orin"), writer)
        writer.finish()
        return artifact.commit({
            "model": {"name": "lab", "architecture": "MiniCPMForCausalLM"}, "context": 8,
            "quant": "test", "dtype": "fp32", "target": {"name": "jetson-orin"},
            "tokens": {"bos": 1, "stop": [2]},
        })  # fmt: skip


def test_without_triton_there_is_one_network_and_no_kernel(tmp_path: Path, no_triton: None) -> None:
    model = MODELS["quant.linear int4-g32"]
    with open_artifact(build(model.module, model.store, tmp_path / "m.ark")) as artifact:
        facts = TensorRTSection.from_json(artifact.sections["tensorrt"].config)
        network = onnx.load_from_string(artifact.read(facts.networks["native"]))
    assert tuple(facts.networks) == ("native",)
    assert (facts.kernels, facts.probes) == ("", ())
    assert {weight.form for weight in facts.weights} == {"dense", "int4"}
    assert [entry.domain for entry in network.opset_import] == [""]


HEAD = """module {context = 8, chunk = 4, vocab_size = 4}
weight @w : f32[4, 4]
weight @n : f32[4]
func @step(%tokens: i64[T], %rows: i64[R]) {
"""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "  %0 = nn.embedding(%tokens, @w) {scale = 1.0} : f32[T, 4]  // first\n"
            "  %1 = nn.embedding(%tokens, @w) {scale = 1.0} : f32[T, 4]  // second\n"
            "  %2 = nn.add(%0, %1) {scale = 1.0} : f32[T, 4]\n"
            "  %3 = tensor.take(%2, %rows) : f32[R, 4]\n",
            "TensorRT cannot run nn.embedding at second. Tokens are embedded once, outside of the "
            "network, and this is the second time.",
        ),
        (
            "  %0 = nn.embedding(%tokens, @w) {scale = 1.0} : f32[T, 4]  // first\n"
            "  %1 = tensor.take(%tokens, %rows) : i64[R]  // choice\n"
            "  %3 = tensor.take(%0, %rows) : f32[R, 4]\n",
            "TensorRT cannot run tensor.take at choice. It reads the tokens, which an embedding "
            "alone may do.",
        ),
        (
            "  %0 = nn.embedding(%rows, @w) {scale = 1.0} : f32[R, 4]  // first\n"
            "  %3 = nn.rms_norm(%0, @n) {eps = 0.1} : f32[R, 4]\n",
            "TensorRT cannot run nn.embedding at first. It looks up something else than the tokens "
            "of the step.",
        ),
    ],
)
def test_what_tokens_may_not_be_used_for(body: str, message: str, tmp_path: Path) -> None:
    text = HEAD + body + "  return logits = %3\n}\n"
    with pytest.raises(UnsupportedError) as refusal:
        build(text, MODELS["three layers"].store, tmp_path / "m.ark")
    assert str(refusal.value) == message
