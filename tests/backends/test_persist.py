"""The feature "persist": what was saved goes on with the same bits, and nothing else is taken."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arkinfer.errors import ArkError, ArtifactError, ResourceError, UsageError
from arkinfer.runtime.features import Persistent
from tests.backends.expectations import REFUSED
from tests.backends.lab import Lab, Model
from tests.backends.models import MODELS

pytestmark = pytest.mark.feature("persist")

Array = npt.NDArray[Any]

KINDS = {
    "float32": MODELS["three layers"],
    "bf16": MODELS["three layers int4, bf16 cache"],
    "f16": MODELS["three layers int4, f16 cache"],
    "int8": MODELS["three layers int4, int8 cache by token"],
}
MODEL = MODELS["three layers"]
CHUNK = MODEL.chunk


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, backend: str) -> Model:
    found = KINDS[request.param]
    if found.name in REFUSED[backend]:
        pytest.skip(f"{backend} keeps no such cache")
    return found


def new_state(lab: Lab, backend: str, model: Model, capacity: int = 40) -> Persistent:
    return cast(Persistent, lab.executable(backend, model).new_state(capacity))


def held(lab: Lab, backend: str, model: Model, length: int, seed: int = 0) -> Persistent:
    state = new_state(lab, backend, model)
    tokens = MODEL.tokens(length, seed)
    for start in range(0, length, CHUNK):
        state.step(tokens[start : start + CHUNK], rows="none")
    return state


def saved(state: Persistent) -> bytes:
    file = BytesIO()
    state.save(file)
    return file.getvalue()


@given(length=st.integers(0, 39), other=st.integers(0, 39))
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_restored_state_goes_on_with_the_same_bits(
    lab: Lab, backend: str, model: Model, length: int, other: int
) -> None:
    """Into a new state as into one that holds something else; and it can be truncated."""
    state = held(lab, backend, model, length)
    data = saved(state)
    for restored in (new_state(lab, backend, model), held(lab, backend, model, other, seed=1)):
        restored.restore(BytesIO(data))
        assert restored.length == length
        assert saved(restored) == data
        last = MODEL.tokens(1, seed=2)
        expected = state.step(last).logits
        np.testing.assert_array_equal(restored.step(last).logits, expected)
        for each in (restored, state):
            each.truncate(length)
    state.truncate(length // 2)
    restored.truncate(length // 2)
    np.testing.assert_array_equal(*(s.step(MODEL.tokens(1)).logits for s in (restored, state)))


def test_nothing_of_what_was_forgotten_is_saved(lab: Lab, backend: str, model: Model) -> None:
    state = held(lab, backend, model, 5)
    before = saved(state)
    state.step(MODEL.tokens(9, seed=8))
    assert saved(state) != before
    state.truncate(5)
    assert saved(state) == before


def test_it_goes_through_a_file_and_another_executable(
    lab: Lab, backend: str, model: Model, tmp_path: Path
) -> None:
    state = held(lab, backend, model, 21)
    path = tmp_path / "state"
    with path.open("wb") as file:
        state.save(file)
    other = cast(Persistent, lab.open(backend, model).new_state(22))
    with path.open("rb", buffering=0) as file:
        other.restore(file)
    last = MODEL.tokens(1, seed=3)
    np.testing.assert_array_equal(other.step(last).logits, state.step(last).logits)


def test_it_can_stand_inside_of_another_file(lab: Lab, backend: str, model: Model) -> None:
    """Nothing beyond its end is read, and the file need not be seekable."""

    class Pipe(BytesIO):
        def seek(self, *_: Any) -> int:
            raise OSError("this is a pipe")

        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size or 0, 1000) if size != -1 else -1)

    first, second = held(lab, backend, model, 5), held(lab, backend, model, 8, seed=4)
    file = BytesIO(b"before")
    file.seek(6)
    first.save(file)
    second.save(file)
    file.write(b"after")
    pipe = Pipe(file.getvalue())
    assert pipe.read(6) == b"before"
    restored = new_state(lab, backend, model)
    for state in (first, second):
        restored.restore(pipe)
        assert saved(restored) == saved(state)
    assert pipe.read() == b"after"


@pytest.mark.parametrize("length", [0, 7])
def test_damage_is_refused_and_the_state_as_it_was(
    lab: Lab, backend: str, model: Model, length: int
) -> None:
    """Every cut, and a bit of every byte of the header and of many others."""
    data = saved(held(lab, backend, model, 12))
    state = held(lab, backend, model, length, seed=5)
    before = saved(state)
    rng = np.random.default_rng(0)
    places = [*range(200), *rng.integers(0, len(data), 60).tolist(), len(data) - 1]
    broken = [data[:place] for place in places]
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 1 << int(rng.integers(8))
        broken.append(bytes(changed))
    for each in broken:
        with pytest.raises(ArtifactError):
            state.restore(BytesIO(each))
    assert saved(state) == before
    last = MODEL.tokens(1, seed=6)
    expected = held(lab, backend, model, length, seed=5).step(last).logits
    np.testing.assert_array_equal(state.step(last).logits, expected)


def test_a_state_of_another_artifact_is_refused(lab: Lab, backend: str) -> None:
    data = saved(held(lab, backend, MODEL, 4))
    state = new_state(lab, backend, MODELS["three layers int4"])
    with pytest.raises(UsageError) as refusal:
        state.restore(BytesIO(data))
    assert refusal.value.what == "The state was saved by another artifact"
    assert refusal.value.fix == "Restore it with the file that it was saved by"
    assert state.length == 0


def test_a_longer_sequence_than_fits_is_refused(lab: Lab, backend: str) -> None:
    data = saved(held(lab, backend, MODEL, 12))
    state = new_state(lab, backend, MODEL, capacity=11)
    state.step(MODEL.tokens(2))
    with pytest.raises(UsageError) as refusal:
        state.restore(BytesIO(data))
    assert str(refusal.value) == (
        "The saved sequence has 12 tokens. The caches of this one hold 11. Make a state with a "
        "larger context."
    )
    assert state.length == 2


def test_files_that_cannot_be_used(lab: Lab, backend: str, tmp_path: Path) -> None:
    """One sentence for each, and the state goes on."""
    state = held(lab, backend, MODEL, 3)
    path = tmp_path / "state"
    path.write_bytes(b"")
    with path.open("w") as text:
        with pytest.raises(
            UsageError, match=r'^A state cannot be saved in a text file\. Open it with "wb"\.'
        ):
            state.save(cast(Any, text))
    path.write_text("some text that is long enough to be read")
    with path.open() as text:
        with pytest.raises(
            UsageError, match=r'^A state cannot be restored from a text file\. Open it with "rb"\.'
        ):
            state.restore(cast(Any, text))
    with path.open("rb") as file:
        with pytest.raises(ArtifactError, match=r"^This is no saved state\."):
            state.restore(file)
        with pytest.raises(ResourceError, match=r"^The state cannot be saved\."):
            state.save(file)
    with pytest.raises(ResourceError, match=r"^The saved state cannot be read\."):
        state.restore(file)
    with pytest.raises(
        ArtifactError, match=r"^The saved state is cut off\. The file ends after 0 bytes"
    ):
        state.restore(BytesIO())
    assert state.length == 3
    if Path("/dev/full").exists():
        with Path("/dev/full").open("wb", buffering=0) as full:
            with pytest.raises(ResourceError, match=r"^The state cannot be saved\."):
                state.save(full)


def test_what_interrupts_leaves_the_state_as_it_was(lab: Lab, backend: str, model: Model) -> None:
    class Interrupted(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > len(self.getvalue()) // 2:
                raise KeyboardInterrupt
            return super().read(min(size or 0, 4096))

    data = saved(held(lab, backend, model, 30))
    state = held(lab, backend, model, 9, seed=7)
    before = saved(state)
    with pytest.raises(KeyboardInterrupt):
        state.restore(Interrupted(data))
    assert saved(state) == before


def test_a_closed_executable_saves_and_restores_nothing(lab: Lab, backend: str) -> None:
    opened = lab.open(backend, MODEL)
    state = cast(Persistent, opened.new_state(8))
    data = saved(state)
    opened.close()
    for attempt in (lambda: state.save(BytesIO()), lambda: state.restore(BytesIO(data))):
        with pytest.raises(UsageError, match=r"The model is closed\."):
            attempt()


def test_errors_are_of_arkinfer_whatever_the_bytes(lab: Lab, backend: str) -> None:
    rng = np.random.default_rng(1)
    good = saved(held(lab, backend, MODEL, 3))
    state = new_state(lab, backend, MODEL)
    for _ in range(100):
        data = bytearray(good)
        for _ in range(int(rng.integers(1, 6))):
            start = int(rng.integers(0, len(data)))
            data[start : start + int(rng.integers(1, 40))] = rng.bytes(int(rng.integers(0, 40)))
        with pytest.raises(ArkError):
            state.restore(BytesIO(bytes(data)))
    assert state.length == 0
