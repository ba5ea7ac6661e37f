"""Files built here for ARM, run there as a user would, and how near they come to exact numbers."""

from __future__ import annotations

import json
import signal
import subprocess
from importlib.resources import files as resource
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from arkinfer import build
from arkinfer.artifact import open_artifact
from arkinfer.runtime.contract import Executable, LoadOptions
from arkinfer.runtime.engine import load
from arkinfer.runtime.registry import open_section
from tests.arm64.conftest import DOTPROD
from tests.arm64.emulator import Emulator
from tests.arm64.remote import Remote, RemoteExecutor
from tests.demo import ternary_checkpoint

Array = npt.NDArray[Any]

QUESTION = "What is the json module good for?"
GREEDY = ("--no-think", "--temperature", "0", "--max-new-tokens", "12", "--json")
TOKENS, PREFILLED, CHUNK = 160, 128, 64


@pytest.fixture(scope="module", params=["int4", "ternary"])
def file(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Path:
    """With a section for ARM, and one that computes without rounding anything."""
    folder = tmp_path_factory.mktemp("files")
    path = folder / f"{request.param}.ark"
    model = "demo" if request.param == "int4" else ternary_checkpoint.write(folder / "demo")
    backends = ("tvm", "reference")
    build(model, "arm64-dotprod", request.param, path, backend=backends, context=512, chunk=CHUNK)
    return path


def teacher_forced(executable: Executable, tokens: Array) -> Array:
    """Log-probabilities, float64 [len(tokens), vocab]: some in chunks, the others one by one."""
    state = executable.new_state(len(tokens))
    bounds = [*range(0, PREFILLED, CHUNK), *range(PREFILLED, len(tokens) + 1)]
    parts = [state.step(tokens[a:b], rows="all").logits for a, b in pairwise(bounds)]
    logits = np.concatenate(parts).astype(np.float64)
    top = logits.max(-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


def test_as_near_to_exact_numbers_as_here(file: Path, remote: Remote) -> None:
    text = (resource("arkinfer") / "demo" / "heldout.txt").read_text("utf-8")
    with load(file, backend="reference") as engine:
        tokens = np.array(engine.tokenizer.encode(text[:4000])[:TOKENS])
    assert len(tokens) == TOKENS
    with open_artifact(file) as artifact:
        _, exact = open_section(artifact, "reference", LoadOptions(1))
        executor = RemoteExecutor(remote, "arkinfer_tvm.executor:TvmExecutor", "tvm")
        there = executor.open(artifact, artifact.sections["tvm"], LoadOptions(2))
        expected, got = teacher_forced(exact, tokens), teacher_forced(there, tokens)
        there.close()
        exact.close()
    divergence = (np.exp(expected) * (expected - got)).sum(-1)
    assert divergence.mean() <= 0.002
    best = np.sort(expected, -1)
    clear = best[:, -1] - best[:, -2] > 0.25
    assert clear.sum() > TOKENS / 2
    np.testing.assert_array_equal(got.argmax(-1)[clear], expected.argmax(-1)[clear])


def test_a_user_runs_it(file: Path, emulator: Emulator) -> None:
    done = emulator.run("-m", "arkinfer", "run", file, QUESTION, *GREEDY)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["backend"] == "tvm"
    with load(file, backend="reference") as engine:
        said = "".join(engine.chat(QUESTION, thinking=False, max_new_tokens=12, temperature=0.0))
    assert answer["text"] == said


@pytest.mark.parametrize("file", ["int4"], indirect=True)
def test_it_verifies_itself(file: Path, emulator: Emulator) -> None:
    done = emulator.run("-m", "arkinfer", "verify", file)
    assert done.returncode == 0, done.stdout + done.stderr


TRAP = """\
.globl _start
_start:
  {instruction}
  mov x0, #0
  mov x8, #93
  svc #0
"""


@pytest.mark.parametrize(
    ("cpu", "instruction", "code"),
    [
        (DOTPROD, ".inst 0x4e829420  // sdot v0.4s, v1.16b, v2.16b", 0),
        (DOTPROD, ".inst 0x4e82a420  // smmla v0.4s, v1.16b, v2.16b", -signal.SIGILL),
        ("cortex-a72", ".inst 0x4e829420  // sdot v0.4s, v1.16b, v2.16b", -signal.SIGILL),
        ("max", ".inst 0x4e82a420  // smmla v0.4s, v1.16b, v2.16b", 0),
    ],
)
def test_what_a_processor_lacks_ends_the_program(
    cpu: str, instruction: str, code: int, emulator: Emulator, tmp_path: Path
) -> None:
    """So that a kernel with the wrong instructions cannot pass here."""
    from arkinfer_tvm.build import c_compiler

    (tmp_path / "trap.S").write_text(TRAP.format(instruction=instruction))
    command = [*c_compiler("aarch64").command, "-nostdlib", "-static", "trap.S", "-o", "trap"]
    subprocess.run(command, cwd=tmp_path, check=True)
    there = Emulator(cpu, root=emulator.root)
    done = subprocess.run(there.command(tmp_path / "trap"), env=there.environ(), check=False)
    assert done.returncode == code
