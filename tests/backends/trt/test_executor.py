"""Preparing and opening a section, by the real executor on a fake device: what is built, what is
kept, what is chosen, and what a user reads when it does not work."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from arkinfer.errors import ArtifactError, DeviceError, UsageError
from arkinfer.runtime.contract import Checker, Preparer
from arkinfer_trt import plugins
from arkinfer_trt.executable import TensorRTExecutable
from arkinfer_trt.executor import TensorRTExecutor
from tests.backends.lab import Lab, error
from tests.backends.models import MODELS
from tests.backends.trt.fake import installed, plugin
from tests.backends.trt.fake.device import Device, device

INT4, DENSE = MODELS["three layers int4"], MODELS["three layers"]
TOKENS = INT4.tokens(20)
NATIVE, OURS = "DequantizeLinear", "ArkGemv"


@pytest.fixture
def orin(lab: Lab, tmp_path: Path) -> Iterator[Device]:
    """With the int4 model, which has both networks."""
    with device(lab.path("tensorrt", INT4), tmp_path / "cache") as made:
        yield made


@pytest.fixture
def dense(lab: Lab, tmp_path: Path) -> Iterator[Device]:
    with device(lab.path("tensorrt", DENSE), tmp_path / "cache") as made:
        yield made


def logits(executable: TensorRTExecutable) -> npt.NDArray[Any]:
    """Of all tokens; gives everything back."""
    state = executable.new_state(24)
    parts = [state.step(TOKENS[a:b], rows="all").logits for a, b in ((0, 16), (16, 19), (19, 20))]
    executable.close()
    return np.concatenate(parts)


def faster(op: str) -> Callable[[frozenset[str]], int]:
    """A clock on which networks with this op take a third."""
    return lambda ops: 100_000 if op in ops else 300_000


def test_it_prepares_and_checks() -> None:
    executor = TensorRTExecutor()
    assert isinstance(executor, Preparer)
    assert isinstance(executor, Checker)


def test_opening_builds_an_engine_once(orin: Device, lab: Lab) -> None:
    assert orin.prepared() is None
    first = logits(orin.open())
    built = len(orin.machine.builds)
    assert np.array_equal(logits(orin.open()), first)
    assert len(orin.machine.builds) == built
    assert [each.reused for each in orin.told] == [False, True]
    assert orin.told[0].path is not None
    assert orin.told[0].path.is_relative_to(orin.cache)
    assert orin.prepared() == orin.told[1]
    assert error(first, lab.answer(INT4, TOKENS)) < 0.01


def test_preparing_is_what_opening_would_do(orin: Device) -> None:
    made = orin.prepare()
    assert not made.reused
    assert orin.prepare().reused
    orin.open().close()
    assert orin.told[0].path == made.path
    assert orin.machine.used == 0
    assert not orin.machine.pinned


def test_progress_goes_from_nothing_to_all(orin: Device) -> None:
    orin.open().close()
    stages = list(dict.fromkeys(what for what, _, _ in orin.progress))
    assert stages == ["Timing both ways to multiply", "Building the engine", "Loading the weights"]
    for stage in stages:
        told = [(done, total) for what, done, total in orin.progress if what == stage]
        assert told == sorted(told)
        assert told[0][0] == 0
        assert told[-1][0] == told[-1][1] > 0


@pytest.mark.parametrize(("op", "taken"), [(OURS, "gemv"), (NATIVE, "native")])
def test_the_faster_network_is_kept(orin: Device, op: str, taken: str, lab: Lab) -> None:
    orin.machine.takes = faster(op)
    got = logits(orin.open())
    assert (NATIVE in orin.machine.builds[-1]) == (taken == "native")
    (prepared,) = orin.told
    (choice,) = prepared.choices
    assert (prepared.network, choice.what, choice.taken) == (taken, "network", taken)
    other = {"gemv": "native", "native": "gemv"}[taken]
    assert choice.seconds[other] == pytest.approx(3 * choice.seconds[taken])
    assert choice.seconds[taken] == pytest.approx(15 * 100e-6)  # five products in three layers
    assert error(got, lab.answer(INT4, TOKENS)) < 0.01


def test_both_networks_compute_the_same(orin: Device) -> None:
    ours, native = (logits(orin.open(network=name)) for name in ("gemv", "native"))
    assert OURS in orin.machine.builds[0]
    assert NATIVE in orin.machine.builds[1]
    assert not orin.told[0].choices
    assert error(ours, native.astype(np.float64)) < 0.005


def test_what_was_asked_for_is_kept_beside_what_was_chosen(orin: Device) -> None:
    paths = {
        orin.prepare(**asked).path for asked in ({}, {"network": "native"}, {"weights": "inputs"})
    }
    assert len(paths) == 3
    assert orin.prepare(network="native").reused


def test_a_network_that_is_not_there(orin: Device) -> None:
    with pytest.raises(UsageError) as refusal:
        orin.open(network="int3")
    assert str(refusal.value) == (
        'The artifact has no network "int3". It has: gemv, native. '
        "Name one of these, or none for the faster one."
    )


def test_weights_as_inputs_are_weights_as_constants(dense: Device, lab: Lab) -> None:
    kept, given = (logits(dense.open(weights=way)) for way in ("constants", "inputs"))
    assert [each.facts["weights"] for each in dense.told] == ["constants", "inputs"]
    assert dense.told[1].nbytes < dense.told[0].nbytes / 2
    np.testing.assert_array_equal(kept, given)
    assert error(kept, lab.answer(DENSE, TOKENS)) < 0.01


def test_weights_stay_inputs_where_memory_is_short(
    dense: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arkinfer_trt.memory.RUNTIME", 0)
    dense.machine.memory = 3 << 20
    assert dense.prepare().facts["weights"] == "inputs"
    with pytest.raises(DeviceError) as refusal:
        dense.prepare(weights="constants")
    assert refusal.value.what.startswith("Building the engine takes about 3.")
    assert refusal.value.fix == "Prepare it with --weights inputs, or close other programs"


def test_a_model_that_does_not_fit_is_refused_before_anything_is_built(orin: Device) -> None:
    orin.machine.memory = 1 << 20
    with pytest.raises(DeviceError) as refusal:
        orin.prepare(network="gemv")
    assert refusal.value.what == (
        "Building the engine takes about 700.0 MiB of memory, and 1.0 MiB are free"
    )
    assert not orin.machine.builds


def test_a_network_that_fails_to_build_gives_way_and_that_is_said(orin: Device) -> None:
    orin.machine.broken = frozenset({NATIVE})
    orin.machine.takes = faster(NATIVE)
    got = orin.prepare()
    assert got.network == "gemv"
    (note,) = got.notes
    assert note.startswith('The network "native" is left out. TensorRT could not build the network')
    assert "Could not find any implementation for node DequantizeLinear" in note
    assert orin.prepare().notes == got.notes  # as long as this engine is in use


def test_the_whole_network_may_fail_where_its_products_did_not(
    orin: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from arkinfer_trt import prepare

    real = prepare.build

    def build(draft: Any, **more: Any) -> Any:
        if draft.name == "native":
            raise DeviceError("TensorRT could not build the network", "no kernel fits")
        return real(draft, **more)

    monkeypatch.setattr(prepare, "build", build)
    orin.machine.takes = faster(NATIVE)
    got = orin.prepare()
    assert got.network == "gemv"
    assert got.notes == (
        'The network "native" is left out. TensorRT could not build the network. no kernel fits',
    )


def test_a_network_that_was_asked_for_does_not_give_way(orin: Device) -> None:
    orin.machine.broken = frozenset({NATIVE})
    with pytest.raises(DeviceError, match='TensorRT could not build the network "native"'):
        orin.open(network="native")
    assert orin.machine.used == 0


def test_nothing_builds(orin: Device) -> None:
    orin.machine.broken = frozenset({NATIVE, OURS})
    with pytest.raises(DeviceError) as refusal:
        orin.open()
    assert "Could not find any implementation" in refusal.value.why
    assert (orin.machine.used, orin.machine.pinned) == (0, {})


def test_a_node_that_the_parser_refuses_is_named(
    orin: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.backends.trt.fake.tensorrt.OPS", frozenset({"MatMul"}))
    with pytest.raises(DeviceError) as refusal:
        orin.open(network="native")
    assert refusal.value.what == 'TensorRT does not take the network "native"'
    assert "at " in refusal.value.why
    assert "Plugin not found" in refusal.value.why


@pytest.fixture
def no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT's module for them is a package of its own, and missing."""
    monkeypatch.setattr(plugins, "_REGISTERED", set[str]())
    monkeypatch.setattr(plugin, "REGISTERED", {})
    monkeypatch.setattr(plugin, "module", lambda: None)


@pytest.mark.usefixtures("no_plugins")
def test_without_the_module_for_plugins_networks_that_need_it_are_refused(orin: Device) -> None:
    """Its head is int8, which is ours in both networks."""
    with pytest.raises(DeviceError) as refusal:
        orin.prepare()
    assert refusal.value.what == "TensorRT cannot be given kernels from Python"
    assert "python3-libnvinfer" in refusal.value.fix


@pytest.mark.usefixtures("no_plugins")
def test_without_the_module_for_plugins_the_other_network_is_taken(
    lab: Lab, tmp_path: Path
) -> None:
    with device(lab.path("tensorrt", MODELS["quant.linear int4-g32"]), tmp_path) as orin:
        got = orin.prepare()
    assert got.network == "native"
    (note,) = got.notes
    assert note.startswith("Networks with our own kernels are left out. TensorRT cannot be given")


def test_a_damaged_engine_is_made_again_and_that_is_said(orin: Device) -> None:
    path = orin.prepare().path
    assert path is not None
    path.write_bytes(path.read_bytes()[:-100])
    orin.open().close()
    (told,) = orin.told
    assert not told.reused
    assert any("was damaged; it is made again" in note for note in told.notes)
    assert orin.prepare().reused


def test_an_engine_that_tensorrt_cannot_read_is_made_again_and_that_is_said(orin: Device) -> None:
    """Such as after an update of which TensorRT's version does not tell."""
    orin.prepare(network="gemv")
    orin.machine.plans = 2
    told = orin.prepare(network="gemv")
    assert not told.reused
    (note,) = told.notes
    assert note.startswith(
        "The engine that was kept is made again. TensorRT cannot read the engine."
    )
    assert orin.prepare(network="gemv").notes == ()
    orin.machine.plans = 3
    orin.open(network="gemv").close()
    assert not orin.told[-1].reused


def test_a_new_engine_that_cannot_be_read_is_not_built_twice(
    orin: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "tests.backends.trt.fake.tensorrt.Runtime.deserialize_cuda_engine", lambda self, plan: None
    )
    with pytest.raises(DeviceError) as refusal:
        orin.open(network="gemv")
    assert refusal.value.what == "TensorRT cannot read the engine"
    assert len(orin.machine.builds) == 1


@pytest.mark.parametrize(("part", "what"), [
    ("Builder", 'TensorRT could not build the network "gemv"'),
    ("Runtime", "TensorRT could not begin to run"),
])  # fmt: skip
def test_tensorrt_cannot_even_begin(
    orin: Device, part: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, logger: Any) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(f"tests.backends.trt.fake.tensorrt.{part}.__init__", fail)
    with pytest.raises(DeviceError, match="factory function returned nullptr") as refusal:
        orin.open(network="gemv")
    assert refusal.value.what == what


def test_another_version_gets_an_engine_of_its_own(orin: Device) -> None:
    orin.prepare()
    orin.machine.tensorrt = "10.16.3"
    again = orin.prepare()
    assert not again.reused
    assert again.notes == ("An engine for TensorRT 10.16.2 is there, and of no use here",)
    assert orin.prepare().notes == ()


def test_timings_are_kept_for_the_next_engine(orin: Device) -> None:
    orin.prepare(network="gemv")
    (first,) = (path.read_bytes() for path in orin.cache.glob("timings/*/*"))
    orin.prepare(network="native")
    (second,) = (path.read_bytes() for path in orin.cache.glob("timings/*/*"))
    assert len(second) > len(first)


def test_a_folder_that_cannot_be_written_is_said(orin: Device) -> None:
    orin.cache.write_text("a file")
    got = logits(orin.open())
    assert len(got) == len(TOKENS)
    (told,) = orin.told
    assert told.path is None
    assert any(note.startswith("The engine is not kept: ") for note in told.notes)


def test_ctrl_c_ends_a_build_and_leaves_nothing(orin: Device) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if what == "Building the engine" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        orin.open(network="gemv", on_progress=interrupt)
    assert (orin.machine.used, orin.machine.pinned) == (0, {})
    assert orin.prepared(network="gemv") is None
    assert not orin.prepare(network="gemv").reused


def test_a_kept_engine_is_refused_where_memory_is_short_before_it_is_loaded(orin: Device) -> None:
    orin.prepare(network="gemv")
    orin.machine.memory = 100_000
    with pytest.raises(DeviceError) as refusal:
        orin.open(network="gemv")
    assert refusal.value.what.startswith("Running the model takes about ")
    assert refusal.value.fix.startswith("Build the artifact with a smaller context or fewer bits,")


def test_memory_that_ends_while_weights_are_loaded(orin: Device) -> None:
    orin.prepare(network="gemv")
    orin.machine.refused = 5
    with pytest.raises(DeviceError) as refusal:
        orin.open(network="gemv")
    assert refusal.value.what.startswith('The device has no memory for the weight "')
    assert "are free" in refusal.value.why
    assert (orin.machine.used, orin.machine.pinned) == (0, {})


@pytest.mark.parametrize("change", [{"dtype": "int8"}, {"networks": {}}, {"embedding": None}])
def test_a_section_that_is_something_else(orin: Device, change: dict[str, Any]) -> None:
    orin.section.config.update(change)
    with pytest.raises(ArtifactError) as refusal:
        orin.open()
    assert refusal.value.what.startswith('The section "tensorrt" of "')
    assert refusal.value.fix == "Build the artifact again"
    assert orin.machine.used == 0


def test_check_reads_no_weight(orin: Device) -> None:
    with installed(orin.machine):
        demand = TensorRTExecutor().check(orin.artifact, orin.section)
    assert demand.weights == orin.artifact.section_bytes("tensorrt")
    assert demand.per_token == 6 * 2 * 32 * 2  # caches, heads, size, bytes
    assert not orin.machine.builds


def test_an_older_device_is_refused(orin: Device) -> None:
    orin.machine.sm = 75
    with installed(orin.machine), pytest.raises(DeviceError, match=r"compute capability 7\.5"):
        TensorRTExecutor().check(orin.artifact, orin.section)


def test_without_tensorrt_it_says_so(orin: Device) -> None:
    assert "tensorrt" not in sys.modules
    with pytest.raises(DeviceError, match="This machine has no TensorRT"):
        TensorRTExecutor().check(orin.artifact, orin.section)
