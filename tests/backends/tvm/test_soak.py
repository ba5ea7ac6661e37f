"""The TVM backend for long, beside itself, short of memory and killed: no drift, no crash."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arkinfer
from arkinfer.artifact import open_artifact
from arkinfer.errors import ResourceError
from arkinfer.runtime.contract import LoadOptions
from arkinfer.testing import make_checkpoint, preset
from arkinfer_tvm.executor import TvmExecutable, TvmExecutor

pytestmark = pytest.mark.slow

CONTEXT, CHUNK = 10_240, 96
SIZES = (1, 1, 1, 2, 3, 7, 8, 31, 64, 65, 96)
"""Of steps: all programs, and their edges."""

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("soak")
    shape = {**preset("tiny"), "max_position_embeddings": CONTEXT}
    make_checkpoint(shape, 3, folder / "model")
    arkinfer.build(
        folder / "model", "cpu", "int4", folder / "m.ark", backend="tvm", context=CONTEXT,
        chunk=CHUNK,
    )  # fmt: skip
    return folder / "m.ark"


@pytest.fixture
def executable(artifact: Path):
    with open_artifact(artifact) as opened:
        found = open_it(opened, 2)
        yield found
        found.close()


def open_it(artifact: Any, threads: int) -> TvmExecutable:
    return TvmExecutor().open(artifact, artifact.sections["tvm"], LoadOptions(threads))


def tokens(executable: TvmExecutable, count: int, seed: int) -> Array:
    return np.random.default_rng(seed).integers(0, executable.vocab_size, count)


def feed(state: Any, ids: Array, size: int = CHUNK) -> Array:
    """The logits of the last token, fed in steps of one size."""
    for start in range(0, len(ids), size):
        output = state.step(ids[start : start + size])
    return output.logits[-1]


def near(got: Array, expected: Array) -> bool:
    """Within what the rounding of activations to 8 bits leaves when sums are taken in other orders:
    an activation on a boundary falls to either side."""
    return bool(np.abs(got - expected).max() <= 0.08 * expected.std())


def test_ten_thousand_tokens_one_by_one(executable: TvmExecutable) -> None:
    ids = tokens(executable, 10_000, 1)
    state = executable.new_state(CONTEXT)
    last = feed(state, ids, 1)
    assert state.length == 10_000
    assert np.isfinite(last).all()
    other = executable.new_state(CONTEXT)
    assert near(feed(other, ids), last)
    np.testing.assert_array_equal(feed(executable.new_state(CONTEXT), ids), feed_again(other, ids))


def feed_again(state: Any, ids: Array) -> Array:
    state.truncate(0)
    return feed(state, ids)


def test_random_steps_truncations_and_restarts(executable: TvmExecutable) -> None:
    """After whatever came before, a state answers as a new one that was given the same tokens."""
    rng = np.random.default_rng(7)
    state, held = executable.new_state(600), np.zeros(0, np.int64)
    for round_ in range(120):
        if rng.random() < 0.3:
            keep = int(rng.integers(0, len(held) + 1)) if rng.random() < 0.8 else 0
            state.truncate(keep)
            held = held[:keep]
        size = min(int(rng.choice(SIZES)), 600 - len(held))
        if size == 0:
            continue
        ids = tokens(executable, size, 100 + round_)
        got = state.step(ids, rows="all").logits
        held = np.concatenate([held, ids])
        assert state.length == len(held)
        fresh = executable.new_state(600)
        assert near(got[-1], feed(fresh, held)), (round_, len(held), size)


def test_threads_change_no_bit(artifact: Path) -> None:
    answers: list[Array] = []
    with open_artifact(artifact) as opened:
        for threads in (1, 2, 3, 5, 7):
            executable = open_it(opened, threads)
            state = executable.new_state(300)
            ids = tokens(executable, 200, 5)
            parts = np.split(ids, np.cumsum([96, 64, 7, 1, 1, 1]))
            answers.append(np.concatenate([state.step(p, rows="all").logits for p in parts]))
            executable.close()
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer, answers[0])


def test_two_executables_and_four_states_at_once(artifact: Path) -> None:
    with open_artifact(artifact) as opened:
        executables = [open_it(opened, 2), open_it(opened, 3)]
        texts = [tokens(executables[0], 400, seed) for seed in range(4)]
        expected = [feed(executables[0].new_state(400), ids, 5) for ids in texts]
        results: dict[int, Array] = {}

        def decode(number: int) -> None:
            state = executables[number % 2].new_state(400)
            results[number] = feed(state, texts[number], 5)

        threads = [threading.Thread(target=decode, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in threads)
        for number, answer in enumerate(expected):
            np.testing.assert_array_equal(results[number], answer)
        for executable in executables:
            executable.close()


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_memory_nearly_full(artifact: Path) -> None:
    """A sequence for which there is no memory is refused, and those that run go on."""
    with open_artifact(artifact) as opened:
        executable = open_it(opened, 2)
        state = executable.new_state(64)
        ids = tokens(executable, 32, 2)
        expected = state.step(ids).logits
        before = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        states: list[Any] = []
        try:
            resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), before[1]))
            with pytest.raises(ResourceError, match=r"There is no memory for [\d,]+ bytes"):
                states.extend(executable.new_state(CONTEXT) for _ in range(1000))
            state.truncate(0)
            np.testing.assert_array_equal(state.step(ids).logits, expected)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
        states.clear()
        assert executable.new_state(CONTEXT).step(ids).logits.shape == expected.shape
        executable.close()


RUN = """
import sys
import numpy as np
from arkinfer.artifact import open_artifact
from arkinfer.runtime.contract import LoadOptions
from arkinfer_tvm.executor import TvmExecutor
with open_artifact(sys.argv[1]) as artifact:
    executable = TvmExecutor().open(artifact, artifact.sections["tvm"], LoadOptions(2))
    state = executable.new_state(500)
    print("running", flush=True)
    while True:
        state.truncate(0)
        state.step(np.arange(1, 90))
"""


def test_a_process_killed_while_it_runs_leaves_the_file_as_it_was(artifact: Path) -> None:
    before = artifact.read_bytes()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", RUN, str(artifact)], env=environment, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"running\n"
            process.send_signal(signal.SIGKILL)
            assert process.wait(30) == -signal.SIGKILL
    assert artifact.read_bytes() == before
    with open_artifact(artifact) as opened:
        executable = open_it(opened, 2)
        assert np.isfinite(executable.new_state(9).step(np.arange(9)).logits).all()
        executable.close()
