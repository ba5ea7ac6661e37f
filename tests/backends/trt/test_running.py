"""Sequences on an engine: graphs, profiles, memory and errors, by the real executor on a fake
device on which nothing happens before somebody waits, and every address is checked."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from arkinfer.errors import DeviceError, ResourceError, UsageError
from arkinfer.runtime.contract import Rows, State
from arkinfer_trt import executable as module
from arkinfer_trt.executable import TensorRTExecutable
from tests.backends.lab import Lab, error
from tests.backends.models import MODELS
from tests.backends.trt.fake import cuda_runtime
from tests.backends.trt.fake.device import Device, device

Array = npt.NDArray[Any]

MODEL = MODELS["three layers int4"]
TOKENS = MODEL.tokens(40, seed=2)
CACHES = 6 * 2 * 48 * 32 * 2
"""Bytes of a sequence: caches, heads, context, size, bytes of a number."""


@pytest.fixture
def orin(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """Its engines are kept for the tests after this one."""
    cache = Path(tmp_path_factory.getbasetemp()) / "engines"
    with device(lab.path("tensorrt", MODEL), cache) as made:
        yield made


@pytest.fixture(params=["gemv", "native"])
def opened(request: pytest.FixtureRequest, orin: Device) -> Iterator[TensorRTExecutable]:
    made = orin.open(network=request.param)
    yield made
    made.close()
    assert (orin.machine.used, orin.machine.pinned) == (0, {})


def one_by_one(state: State, tokens: Array) -> Array:
    return np.concatenate([state.step(tokens[i : i + 1]).logits for i in range(len(tokens))])


def test_a_graph_computes_what_plain_steps_do(orin: Device) -> None:
    with_graphs = orin.open(network="gemv")
    launches = orin.machine.launches
    got = one_by_one(with_graphs.new_state(48), TOKENS)
    assert orin.machine.launches == launches + len(TOKENS) - 2
    with_graphs.close()
    plain = orin.open(network="gemv")
    plain.graphs = False
    launches = orin.machine.launches
    np.testing.assert_array_equal(one_by_one(plain.new_state(48), TOKENS), got)
    assert orin.machine.launches == launches
    plain.close()


def test_steps_that_cannot_be_captured_run_without_graphs_and_that_is_said(
    orin: Device, lab: Lab
) -> None:
    orin.machine.uncapturable = True
    opened = orin.open(network="gemv")
    (note,) = orin.told[-1].notes
    assert note.startswith("Each token takes a little longer than it could. TensorRT could not run")
    assert "operation not permitted when stream is capturing" in note
    got = one_by_one(opened.new_state(48), TOKENS[:6])
    assert orin.machine.launches == 0
    assert error(got, lab.answer(MODEL, TOKENS[:6])) < 0.01
    opened.close()


def test_an_engine_that_does_not_run_is_found_when_it_is_opened(
    orin: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.backends.trt.fake.tensorrt_runtime import IExecutionContext

    def refuse(self: IExecutionContext, stream_handle: int) -> bool:
        self._engine.say("no kernel image is available")
        return False

    monkeypatch.setattr(IExecutionContext, "execute_async_v3", refuse)
    with pytest.raises(DeviceError) as refusal:
        orin.open(network="gemv")
    assert str(refusal.value) == (
        "TensorRT could not run the network. no kernel image is available. "
        "Load the artifact again; else report it."
    )
    assert (orin.machine.used, orin.machine.pinned) == (0, {})


def test_a_model_of_one_token_opens_too(lab: Lab, tmp_path: Path) -> None:
    short = replace(MODEL, name="one token", context=1, chunk=1)
    with device(lab.path("tensorrt", short), tmp_path) as orin:
        opened = orin.open(network="gemv")
        got = opened.new_state(1).step(TOKENS[:1], rows="all").logits
        opened.close()
    assert error(got, lab.answer(short, TOKENS[:1])) < 0.01


def test_all_kinds_of_steps_in_turns(opened: TensorRTExecutable, lab: Lab) -> None:
    """Decode, prefill and verify share the caches of a state, which grows and is cut."""
    expected = lab.answer(MODEL, TOKENS)
    state, done = opened.new_state(48), 0
    sizes: list[tuple[int, Rows]] = [
        (1, "last"), (7, "last"), (1, "all"), (16, "none"), (1, "none"), (5, "all"), (1, "last"),
        (1, "last"), (3, "last"), (2, "all"),
    ]  # fmt: skip
    for size, rows in sizes:
        state.step(MODEL.tokens(1, seed=done))  # a token that is taken back
        state.truncate(done)
        got = state.step(TOKENS[done : done + size], rows=rows).logits
        done += size
        count = {"last": 1, "all": size, "none": 0}[rows]
        assert got.shape == (count, 157)
        if count:
            assert error(got, expected[done - count : done]) < 0.01
    assert state.length == done == 38


def test_two_states_in_turns(opened: TensorRTExecutable, lab: Lab) -> None:
    other = MODEL.tokens(20, seed=9)
    a, b = opened.new_state(48), opened.new_state(20)
    got_a, got_b = [], []
    for i in range(0, 20, 4):
        got_a.append(a.step(TOKENS[i : i + 4], rows="all").logits)
        got_b.append(b.step(other[i : i + 2], rows="all").logits)
        got_b += [b.step(other[j : j + 1]).logits for j in range(i + 2, i + 4)]
    assert error(np.concatenate(got_a), lab.answer(MODEL, TOKENS[:20])) < 0.01
    assert error(np.concatenate(got_b), lab.answer(MODEL, other)) < 0.01


def test_threads_take_turns(opened: TensorRTExecutable, lab: Lab) -> None:
    got: dict[int, Array] = {}

    def work(number: int) -> None:
        got[number] = one_by_one(opened.new_state(48), MODEL.tokens(10, seed=number))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, logits in got.items():
        assert error(logits, lab.answer(MODEL, MODEL.tokens(10, seed=number))) < 0.01
    assert len(got) == 3


def test_memory_of_a_kind_of_step_is_taken_when_it_is_used(orin: Device) -> None:
    """But for steps of one token, which opening takes itself."""
    opened = orin.open(network="gemv")
    state = opened.new_state(48)
    used = [orin.machine.used]
    state.step(TOKENS[:1])
    assert [orin.machine.used] == used
    for rows in ("last", "all"):
        state.step(TOKENS[:9], rows=rows)
        used.append(orin.machine.used)
    assert used == sorted(set(used))
    for count in range(1, 9):
        state.truncate(0)
        state.step(TOKENS[:count], rows="all")
    assert orin.machine.used == used[-1]
    opened.close()


def test_a_state_that_is_gone_gives_its_memory_back(
    opened: TensorRTExecutable, orin: Device
) -> None:
    before = orin.machine.used
    state = opened.new_state(48)
    assert orin.machine.used == before + CACHES
    used = orin.machine.used
    one_by_one(state, TOKENS[:4])  # with a graph
    del state
    gc.collect()
    opened.new_state(48)
    assert orin.machine.used == used


def test_caches_begin_as_numbers(opened: TensorRTExecutable, orin: Device) -> None:
    """Fresh device memory may hold anything, and what is masked out is still multiplied."""
    state = opened.new_state(48)
    for _ in range(3):
        assert np.isfinite(state.step(TOKENS[:1]).logits).all()


def test_no_memory_for_another_sequence(opened: TensorRTExecutable, orin: Device, lab: Lab) -> None:
    first = opened.new_state(48)
    first.step(TOKENS[:5])
    orin.machine.memory = orin.machine.used + CACHES - 1
    used = orin.machine.used
    with pytest.raises(ResourceError) as refusal:
        opened.new_state(48)
    assert refusal.value.what == "The device has no memory for caches of 48 tokens"
    assert orin.machine.used == used
    assert error(first.step(TOKENS[5:6]).logits, lab.answer(MODEL, TOKENS[:6])[-1:]) < 0.01


def test_no_memory_for_a_kind_of_step_leaves_the_state(
    opened: TensorRTExecutable, orin: Device, lab: Lab
) -> None:
    state = opened.new_state(48)
    state.step(TOKENS[:1])
    memory, orin.machine.memory = orin.machine.memory, orin.machine.used
    with pytest.raises(DeviceError, match="The device has no memory for steps of 16 tokens"):
        state.step(TOKENS[1:9])
    assert state.length == 1
    orin.machine.memory = memory
    got = state.step(TOKENS[1:9], rows="all").logits
    assert error(got, lab.answer(MODEL, TOKENS[:9])[1:]) < 0.01


def test_a_step_that_fails_changes_nothing(
    opened: TensorRTExecutable, monkeypatch: pytest.MonkeyPatch, lab: Lab
) -> None:
    state = opened.new_state(48)
    state.step(TOKENS[:4])
    for count in (1, 3):
        with monkeypatch.context() as patch:
            patch.setattr(module.Steps, "run", lambda self, caches: _fail())
            patch.setattr(module.Held, "run_one", lambda self, steps, graphs: _fail())
            with pytest.raises(DeviceError, match="out of luck"):
                state.step(TOKENS[4 : 4 + count])
        assert state.length == 4
    got = state.step(TOKENS[4:10], rows="all").logits
    assert error(got, lab.answer(MODEL, TOKENS[:10])[4:]) < 0.01


def _fail() -> None:
    raise DeviceError("out of luck")


def test_an_error_that_the_device_tells_late(
    opened: TensorRTExecutable, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = opened.new_state(48)
    state.step(TOKENS[:2])
    illegal = cuda_runtime.cudaError_t.cudaErrorInvalidValue
    runtime = opened._cuda._api
    monkeypatch.setattr(runtime, "cudaStreamSynchronize", lambda stream: (illegal,))
    with pytest.raises(DeviceError) as refusal:
        state.step(TOKENS[2:3])
    assert str(refusal.value) == (
        "The device could not finish its work. CUDA says: invalid argument. "
        "Load the artifact again; if it happens again, restart the device, else report it."
    )
    assert state.length == 2


def test_ctrl_c_in_a_step_waits_for_the_device(
    opened: TensorRTExecutable, orin: Device, monkeypatch: pytest.MonkeyPatch, lab: Lab
) -> None:
    """What is in the stream still reads the inputs of this step."""
    state = opened.new_state(48)
    state.step(TOKENS[:4])

    def interrupted(self: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("arkinfer_trt.cuda.Cuda.wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            state.step(TOKENS[4:9])
    assert not any(stream.waiting for stream in orin.machine.streams.values())
    assert state.length == 4
    got = state.step(TOKENS[4:9], rows="all").logits
    assert error(got, lab.answer(MODEL, TOKENS[:9])[4:]) < 0.01


def test_closing_gives_all_memory_back_at_once(orin: Device) -> None:
    opened = orin.open()
    states = [opened.new_state(48) for _ in range(2)]
    one_by_one(states[0], TOKENS[:4])
    states[1].step(TOKENS[:9], rows="all")
    opened.close()
    assert (orin.machine.used, orin.machine.pinned) == (0, {})
    with pytest.raises(UsageError, match="The model is closed"):
        states[0].step(TOKENS[:1])
    with pytest.raises(UsageError, match="The model is closed"):
        opened.new_state(3)
    states.clear()
    gc.collect()
    opened.close()


def test_weights_may_come_in_pieces(
    orin: Device, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of large models do, so that memory stays bounded while they are loaded."""
    monkeypatch.setattr("arkinfer_trt.numbers.ELEMENTS", 512)
    opened = orin.open(network="gemv", weights="inputs")
    got = opened.new_state(48).step(TOKENS[:9], rows="all").logits
    assert error(got, lab.answer(MODEL, TOKENS[:9])) < 0.01
    opened.close()


def test_a_weight_that_changes_is_noticed(orin: Device, lab: Lab) -> None:
    """Of the fake: weights are read from the device, and not from where they came."""
    opened = orin.open(network="gemv")
    state = opened.new_state(48)
    state.step(TOKENS[:1])
    name = next(name for name in opened._weights if name.endswith(".scale"))
    address = opened._weights[name]
    found = orin.machine.find(address, 1)
    orin.machine.write(address, np.zeros(found.data.size, np.uint8))
    state.truncate(0)
    assert error(state.step(TOKENS[:1]).logits, lab.answer(MODEL, TOKENS[:1])) > 0.05
    opened.close()


@pytest.mark.parametrize("network", ["gemv", "native"])
def test_a_cache_that_is_not_updated_in_place_is_refused(
    orin: Device, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.backends.trt.fake.tensorrt_runtime import ICudaEngine

    monkeypatch.setattr(ICudaEngine, "get_aliased_input_tensor", lambda self, name: None)
    with pytest.raises(DeviceError) as refusal:
        orin.open(network=network)
    assert refusal.value.what == 'The engine does not update "past.k0" in place'
    assert (orin.machine.used, orin.machine.pinned) == (0, {})


def test_an_older_tensorrt_does_not_tell_of_aliases(
    orin: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.backends.trt.fake.tensorrt_runtime import ICudaEngine

    monkeypatch.delattr(ICudaEngine, "get_aliased_input_tensor")
    opened = orin.open(network="gemv")
    assert opened.new_state(3).step(TOKENS[:2]).logits.shape == (1, 157)
    opened.close()


LONG = replace(
    MODEL,
    name="three layers int4, long",
    changes={**MODEL.changes, "max_position_embeddings": 512},
    context=308,
    chunk=40,
)
"""Of which 300 tokens and a few more can be read."""


@pytest.mark.parametrize("network", ["gemv", "native"])
def test_logits_stay_those_of_the_reference_to_the_end_of_the_context(
    lab: Lab, tmp_path: Path, network: str
) -> None:
    """Teacher-forced: KL at most 1e-4 in float16, chunks of odd sizes and single steps mixed."""
    tokens = LONG.tokens(LONG.context, seed=11)
    with device(lab.path("tensorrt", LONG), tmp_path) as orin:
        opened = orin.open(network=network)
        state, parts = opened.new_state(LONG.context), list[Array]()
        sizes = [37, 1, 1, 3, 29, 1, 40, 7, 1, 1, 1, 5, 39, 1, 33, 1, 1, 17, 40, 1, 23]
        for size in (*sizes, *[1] * (LONG.context - sum(sizes))):
            done = state.length
            parts.append(state.step(tokens[done : done + size], rows="all").logits)
        assert state.length == state.capacity == LONG.context
        with pytest.raises(UsageError) as refusal:
            state.step(tokens[:1])
        assert str(refusal.value) == (
            "The sequence cannot grow from 308 to 309 tokens. Its caches hold 308. "
            "Truncate it, or make a state with a larger context."
        )
        opened.close()
    divergence = kl(lab.answer(LONG, tokens), np.concatenate(parts).astype(np.float64))
    assert len(divergence) > 300
    assert divergence.max() <= 1e-4, divergence.max()


def kl(expected: Array, got: Array) -> Array:
    """Kullback-Leibler divergence of each token's distribution from the reference, in nats."""
    p, q = (x - x.max(-1, keepdims=True) for x in (expected, got))
    p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (p, q))
    return (np.exp(p) * (p - q)).sum(-1)
