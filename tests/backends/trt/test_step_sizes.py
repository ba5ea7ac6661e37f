"""How much a step looks at, and how much of it is computed at once: by the real executor on a fake
device, with small limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from arkinfer_trt import section
from tests.backends.lab import Lab, error
from tests.backends.trt.fake.device import Device, device
from tests.backends.trt.test_running import CACHES, MODEL, TOKENS, one_by_one


@pytest.fixture
def orin(lab: Lab, tmp_path: Path) -> Iterator[Device]:
    with device(lab.path("tensorrt", MODEL), tmp_path) as made:
        yield made


def test_steps_look_no_further_than_a_window_of_the_caches(
    orin: Device, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows beyond it are no numbers here; each window has its own graph, also on the way back."""
    monkeypatch.setattr(section, "WINDOW", 8)
    opened = orin.open(network="gemv")
    expected = lab.answer(MODEL, TOKENS)
    state = opened.new_state(48)
    (held,) = opened._held
    for window in (8, 16, 32):
        for address in set(held.addresses.values()):
            rows = orin.machine.find(address, CACHES // 6).data.view(np.float16)
            rows.reshape(2, 48, 32)[:, :window], rows.reshape(2, 48, 32)[:, window:] = 0, np.nan
        for sizes in (window * [1], 2 * [window // 2]):
            state.truncate(0)
            for size in sizes:
                start = state.length
                got = state.step(TOKENS[start : start + size], rows="all").logits
                assert error(got, expected[start : state.length]) < 0.01
    launches = orin.machine.launches
    assert error(one_by_one(opened.new_state(48), TOKENS), expected) < 0.01
    assert orin.machine.launches == launches + len(TOKENS) - 2 * len((8, 16, 32, 48))
    opened.close()


def test_logits_of_all_rows_come_in_pieces(
    orin: Device, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For their memory; a single token that is left over is a step of its own."""
    monkeypatch.setattr(section, "VERIFIED", 5)
    opened = orin.open(network="gemv")
    expected = lab.answer(MODEL, TOKENS)
    state = opened.new_state(48)
    for size in (11, 16, 5, 4, 1):
        got = state.step(TOKENS[state.length : state.length + size], rows="all").logits
        assert error(got, expected[state.length - size : state.length]) < 0.01
    opened.close()
