"""What executables say that the kernels of their steps take: whose time it is, and how much."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from arkinfer import ir
from arkinfer.artifact import open_artifact
from arkinfer.errors import UsageError
from arkinfer.profile.cost import VIEWS
from arkinfer.runtime.contract import LoadOptions
from tests.backends.expectations import REFUSED
from tests.backends.lab import ON_CPU, Lab, Model
from tests.backends.models import MODELS
from tests.backends.test_observe import module_of

NAMES = ("three layers", "three layers int4", "llama int8")


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest, backend: str) -> Model:
    if backend in ON_CPU or request.param in REFUSED[backend]:
        pytest.skip("this backend does not run it here")
    return MODELS[request.param]


def test_every_op_is_in_a_kernel(backend: str, model: Model, lab: Lab) -> None:
    step = module_of(backend, model, lab).functions["step"]
    names = ir.value_names(step)
    state = lab.open(backend, model, LoadOptions(2, observe=True)).new_state(24)
    profiler = state.profiler()
    profiler.step(model.tokens(7))
    (times,) = profiler.finish()
    values = {value for op in times.ops for value in op.values}
    inside = {*VIEWS, "tensor.take"}  # the wanted rows may be taken early, for another op
    expected = {names[v] for node in step.nodes for v in node.results if node.op not in inside}
    assert expected - values == set()
    assert values <= set(names.values())
    assert all(op.values and op.kernel for op in times.ops)
    total = sum(op.seconds for op in times.ops)
    assert 0 < total <= times.seconds + 100e-6  # what the profiler takes itself is known so well


def test_the_time_of_a_step_is_that_of_its_tokens(backend: str, lab: Lab) -> None:
    """The products of sixteen rows take longer than those of one, in their kernels."""
    model = MODELS["three layers"]
    if backend in ON_CPU:
        pytest.skip("this backend does not run it here")
    step = module_of(backend, model, lab).functions["step"]
    names = ir.value_names(step)
    products = {names[node.result] for node in step.nodes if node.op == "nn.linear"}
    state = lab.open(backend, model, LoadOptions(1, observe=True)).new_state(24)
    profiler = state.profiler()
    for count in (1, 16) * 24:
        profiler.step(model.tokens(count))
        state.truncate(0)
    times = [
        sum(op.seconds for op in step.ops if products & set(op.values))
        for step in profiler.finish()
    ]
    assert min(times[1::2]) > 1.2 * min(times[::2])


def test_a_step_that_is_timed_is_a_step(backend: str, model: Model, lab: Lab) -> None:
    tokens = model.tokens(20)
    state = lab.open(backend, model, LoadOptions(2, observe=True)).new_state(24)
    first = state.step(tokens[:7], rows="all").logits
    profiler = state.profiler()
    parts = [first, profiler.step(tokens[7:8]).logits, profiler.step(tokens[8:12]).logits]
    assert len(profiler.finish()) == 2
    parts.append(state.step(tokens[12:20], rows="all").logits)
    assert state.length == 20
    plain = lab.executable(backend, model).new_state(24)
    wanted = [plain.step(tokens[:7], rows="all").logits, plain.step(tokens[7:8]).logits]
    wanted += [plain.step(tokens[8:12]).logits, plain.step(tokens[12:20], rows="all").logits]
    np.testing.assert_allclose(np.concatenate(parts), np.concatenate(wanted), rtol=0, atol=1e-4)


def test_a_bad_step_is_refused_and_not_counted(backend: str, lab: Lab) -> None:
    model = MODELS["three layers"]
    if backend in ON_CPU:
        pytest.skip("this backend does not run it here")
    state = lab.open(backend, model, LoadOptions(2, observe=True)).new_state(24)
    profiler = state.profiler()
    with pytest.raises(UsageError, match=r"Token 0 of the step has the id 100000\."):
        profiler.step(np.array([100_000]))
    profiler.step(model.tokens(3))
    assert state.length == 3
    assert len(profiler.finish()) == 1


def test_nothing_stays_behind(
    backend: str, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend in ON_CPU:
        pytest.skip("this backend does not run it here")
    model = MODELS["three layers int4"]
    with open_artifact(lab.path(backend, model)):
        executable = lab.open(backend, model, LoadOptions(1, observe=True))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    profiler = executable.new_state(24).profiler()
    profiler.step(model.tokens(3))
    profiler.finish()
    executable.close()
    assert os.listdir(tmp_path) == []


def test_a_step_lasts_as_long_as_it_is_said_to(backend: str, lab: Lab) -> None:
    """Seconds, not some other unit: within the wall-clock time around it."""
    if backend in ON_CPU:
        pytest.skip("this backend does not run it here")
    model = MODELS["three layers"]
    state = lab.open(backend, model, LoadOptions(1, observe=True)).new_state(24)
    profiler = state.profiler()
    walls: list[float] = []
    for _ in range(8):
        start = time.perf_counter()
        profiler.step(model.tokens(16))
        walls.append(time.perf_counter() - start)
        state.truncate(0)
    said = [times.seconds for times in profiler.finish()]
    assert all(seconds <= wall for seconds, wall in zip(said, walls, strict=True))
    assert max(said) > 0.1 * min(walls)
