"""The executor's promises: states, rows, refusals, and where weights are read from."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest

from arkinfer.artifact import open_artifact
from arkinfer.errors import ArtifactError, DeviceError, UsageError
from arkinfer.models.config import parse_config
from arkinfer.packing import parse_scheme
from arkinfer.runtime.contract import LoadOptions
from arkinfer.runtime.onnx_bytes import ExternalTensor, with_initializers
from arkinfer.testing import preset
from arkinfer.testing.dense import dense_module
from arkinfer_ort.buffers import TwoBuffers
from arkinfer_ort.executor import OnnxRuntimeExecutor
from arkinfer_ort.versions import check_requirements


@pytest.fixture
def tiny(leaves_of, build):
    """The path of a small int4 model with a context of 32 and chunks of 8."""
    shape = parse_config(preset("tiny"))
    shape = dataclasses.replace(shape, residual_scale=1.0)
    scheme = parse_scheme("int4-g32")
    module = dense_module(shape, context=32, chunk=8, linear=scheme, embedding=scheme, dtype="bf16")
    return build(module, leaves_of(shape, 32))


def test_facts(tiny, load):
    executable = load(tiny)
    assert (executable.vocab_size, executable.max_context, executable.chunk) == (512, 32, 8)
    assert executable.features == frozenset()


def test_rows(tiny, load):
    executable = load(tiny)
    state, ids = executable.new_state(32), np.arange(5)
    everything = state.step(ids, rows="all").logits
    assert everything.shape == (5, 512)
    state.truncate(0)
    assert state.step(ids, rows="none").logits.shape == (0, 512)
    assert state.length == 5
    state.truncate(0)
    last = state.step(ids).logits
    np.testing.assert_allclose(last, everything[-1:], atol=1e-5)
    state.truncate(3)
    assert state.step(ids[3:4], rows="none").logits.shape == (0, 512)
    again = state.step(ids[4:], rows="all").logits
    assert again.shape == (1, 512)


def test_logits_belong_to_the_caller(tiny, load):
    """However many, and whatever part of them, a caller holds."""
    state, twin = load(tiny).new_state(32), load(tiny).new_state(32)
    held = [state.step(np.array([t])).logits[-1][3:] for t in range(7)]
    expected = [twin.step(np.array([t])).logits[-1][3:].copy() for t in range(7)]
    for found, wanted in zip(held, expected, strict=True):
        assert (found == wanted).all()


def test_buffers_are_used_again_once_nobody_holds_them():
    buffers = TwoBuffers((1, 4))
    first, second = buffers.next()[1], buffers.next()[1]
    assert first is not second
    _, third, fresh = buffers.next()
    assert fresh
    assert third is not first
    assert third is not second
    address = third.ctypes.data
    view = third[0][1:]
    del third
    buffers.next()
    assert buffers.next()[2]  # the view holds it
    address = buffers.next()[1].ctypes.data
    del view, second
    buffers.next()
    assert buffers.next()[1].ctypes.data == address


def test_states_do_not_disturb_each_other(tiny, load):
    executable = load(tiny)
    alone, mixed, other = (executable.new_state(32) for _ in range(3))
    expected = [alone.step(np.array([t])).logits for t in range(6)]
    for t in range(6):
        other.step(np.array([100 + t, 7]))
        found = mixed.step(np.array([t])).logits
        assert (found == expected[t]).all()


def test_truncating_forgets(tiny, load):
    state = load(tiny).new_state(32)
    expected = [state.step(np.array([t])).logits for t in (1, 2, 3)]
    state.step(np.array([400, 401, 402]))
    state.truncate(1)
    assert (state.step(np.array([2])).logits == expected[1]).all()
    assert (state.step(np.array([3])).logits == expected[2]).all()


@pytest.mark.parametrize(
    ("tokens", "taps", "message"),
    [
        ([], (), "Give at least one token id"),
        (range(9), (), "The artifact was compiled for chunks of 8"),
        ([512], (), "The model's vocabulary ends at 511"),
        ([-1], (), "Token 0 of the step has the id -1"),
        ([1, 2, 3], (), "Its caches hold 4"),
        ([1], ("layer.1",), 'There is no tap "layer.1"'),
    ],
)
def test_a_refused_step_changes_nothing(tokens, taps, message, tiny, load):
    executable = load(tiny)
    state, twin = executable.new_state(4), executable.new_state(4)
    state.step(np.array([5, 6]))
    twin.step(np.array([5, 6]))
    with pytest.raises(UsageError, match=message):
        state.step(np.array(tokens, np.int64), taps=taps)
    assert state.length == 2
    found, expected = state.step(np.array([7])), twin.step(np.array([7]))
    assert (found.logits == expected.logits).all()


def test_a_step_that_fails_inside_changes_nothing(tiny, load, monkeypatch):
    executable = load(tiny)
    state, twin = executable.new_state(32), executable.new_state(32)
    for each in (state, twin):
        each.step(np.array([5, 6]))
    with monkeypatch.context() as patch:
        patch.setattr(executable, "vocab_size", 513)  # found out at the last node, after caches
        with pytest.raises(DeviceError, match="ONNX Runtime failed in a step") as caught:
            state.step(np.array([8, 9, 10]))
    assert "512" in caught.value.why
    assert state.length == 2
    assert (state.step(np.array([7])).logits == twin.step(np.array([7])).logits).all()


@pytest.mark.parametrize("context", [0, 33])
def test_a_context_that_the_artifact_has_not(context, tiny, load):
    with pytest.raises(UsageError, match="compiled for at most 32"):
        load(tiny).new_state(context)


def test_after_close(tiny, load):
    executable = load(tiny)
    state = executable.new_state(8)
    executable.close()
    with pytest.raises(UsageError, match="The model is closed"):
        state.step(np.array([1]))
    with pytest.raises(UsageError, match="The model is closed"):
        executable.new_state(8)


def test_linked_files_and_folders(tiny, load, tmp_path):
    """Hub caches are made of links, and ONNX Runtime refuses to follow them."""
    (tmp_path / "blobs").mkdir()
    blob = tmp_path / "blobs" / "3c5f"
    tiny.rename(blob)
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "model.ark").symlink_to(blob)
    (tmp_path / "latest").symlink_to(tmp_path / "snapshot")
    state = load(tmp_path / "latest" / "model.ark").new_state(8)
    assert np.isfinite(state.step(np.array([1])).logits).all()


def test_relative_path_and_odd_names(tiny, load, monkeypatch):
    odd = tiny.with_name("mön del #1%20.ark")
    tiny.rename(odd)
    monkeypatch.chdir(odd.parent)
    state = load(odd.name).new_state(8)
    assert np.isfinite(state.step(np.array([1])).logits).all()


def test_a_section_of_another_shape_is_an_artifact_error(tiny):
    with open_artifact(tiny) as artifact:
        section = artifact.sections["onnxruntime"]
        for broken in (
            {},
            {**section.config, "initializers": [{"name": "x"}]},
            {**section.config, "caches": [1]},
            {**section.config, "model": "backends/onnxruntime/other.onnx"},
        ):
            with pytest.raises(ArtifactError):
                OnnxRuntimeExecutor().open(
                    artifact, dataclasses.replace(section, config=broken), LoadOptions()
                )


def test_a_model_that_onnx_runtime_refuses(tiny):
    with open_artifact(tiny) as artifact:
        section = artifact.sections["onnxruntime"]
        config = {**section.config, "initializers": section.config["initializers"][1:]}
        with pytest.raises(DeviceError, match="refuses the model"):
            OnnxRuntimeExecutor().open(
                artifact, dataclasses.replace(section, config=config), LoadOptions(1)
            )


def test_requirements():
    check_requirements({"onnxruntime": ">=1.23"}, "1.23.2")
    check_requirements({"onnxruntime": ">=1.23,<2"}, "1.32.0+cpu")
    check_requirements({}, "0.1")
    with pytest.raises(DeviceError) as caught:
        check_requirements({"onnxruntime": ">=1.22,<1.23"}, "1.23.2")
    assert str(caught.value) == (
        "The artifact needs onnxruntime >=1.22,<1.23. Version 1.23.2 is installed. "
        'Install it: pip install "onnxruntime>=1.22,<1.23".'
    )
    with pytest.raises(ArtifactError, match="cannot be understood"):
        check_requirements({"onnxruntime": "~=1.23"}, "1.23.2")
    with pytest.raises(ArtifactError, match='needs "cuda"'):
        check_requirements({"cuda": ">=12"}, "1.23.2")


def test_an_old_python_is_told_the_truth(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 12))
    with pytest.raises(DeviceError, match=r"needs Python 3\.11 or newer"):
        check_requirements({"onnxruntime": ">=1.24"}, "1.23.2")


def test_an_old_onnx_runtime_is_refused_before_it_sees_the_model(tiny, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "__version__", "1.20.1")
    with (
        open_artifact(tiny) as artifact,
        pytest.raises(DeviceError, match=r'pip install "onnxruntime>=1\.23"'),
    ):
        OnnxRuntimeExecutor().open(artifact, artifact.sections["onnxruntime"], LoadOptions())


def test_wire_bytes_are_what_onnx_reads():
    base = onnx.helper.make_model(onnx.helper.make_graph([], "step", [], []))
    tensors = [
        ExternalTensor("w", "uint8", [3, 300, 2], "näme.ark", 4096, 1800),
        ExternalTensor("s", "bfloat16", [], "näme.ark", 2**40, 2),
    ]
    model = onnx.ModelProto.FromString(with_initializers(base.SerializeToString(), tensors))
    assert model.graph.name == "step"
    for proto, tensor in zip(model.graph.initializer, tensors, strict=True):
        assert (proto.name, list(proto.dims)) == (tensor.name, tensor.dims)
        assert proto.data_location == onnx.TensorProto.EXTERNAL
        facts = {entry.key: entry.value for entry in proto.external_data}
        assert facts == {
            "location": "näme.ark",
            "offset": str(tensor.offset),
            "length": str(tensor.length),
        }
    types = [proto.data_type for proto in model.graph.initializer]
    assert types == [onnx.TensorProto.UINT8, onnx.TensorProto.BFLOAT16]


def test_the_device_half_needs_no_compiler(tiny):
    """In a process where torch, onnx and the IR cannot be imported; no socket is opened."""
    code = f"""
import sys
blocked = ["torch", "onnx", "onnx_ir", "arkinfer.ir", "arkinfer.compiler", "arkinfer.passes"]
for name in blocked:
    sys.modules[name] = None
import socket
def refuse(*_args, **_named):
    raise AssertionError("a socket was opened")
socket.socket = refuse
import numpy as np
from arkinfer.artifact import open_artifact
from arkinfer.runtime.contract import LoadOptions
from arkinfer_ort.buffers import TwoBuffers
from arkinfer_ort.executor import OnnxRuntimeExecutor
with open_artifact({str(tiny)!r}) as artifact:
    section = artifact.sections["onnxruntime"]
    executable = OnnxRuntimeExecutor().open(artifact, section, LoadOptions(1))
    print(executable.new_state(8).step(np.array([1, 2])).logits.shape)
    import os
    print(os.environ["ORT_DISABLE_TELEMETRY"])
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert found.stderr == ""
    assert found.stdout.split("\n")[:2] == ["(1, 512)", "1"]
