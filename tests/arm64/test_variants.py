"""One file for several processors: each runs the best of its kernels, or says why it runs none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from arkinfer.artifact import open_artifact
from arkinfer.errors import DeviceError
from arkinfer.runtime.contract import LoadOptions
from arkinfer.targets import Target, load_target
from tests.arm64.conftest import PROCESSORS
from tests.arm64.emulator import Emulator
from tests.arm64.remote import Remote, RemoteExecutable, RemoteExecutor
from tests.backends.expectations import TOLERANCES
from tests.backends.lab import Lab, error
from tests.backends.models import MODELS

MODEL = MODELS["three layers int4"]


class ForTarget(Lab):
    """Compiles for one target."""

    def __init__(self, folder: Path, target: str) -> None:
        super().__init__(folder)
        self._target = target

    def target(self, backend: str) -> Target:
        return load_target(self._target)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By target."""
    folder = tmp_path_factory.mktemp("variants")
    return {
        name: ForTarget(folder, name).write("tvm", MODEL, folder / f"{name}.ark")
        for name in ("arm64", "arm64-dotprod", "arm64-i8mm")
    }


def opened(remote: Remote, file: Path) -> RemoteExecutable:
    executor = RemoteExecutor(remote, "arkinfer_tvm.executor:TvmExecutor", "tvm")
    with open_artifact(file) as artifact:
        return executor.open(artifact, artifact.sections["tvm"], LoadOptions(2))


@pytest.mark.parametrize(
    ("target", "isa"),
    [
        ("arm64", "neon"),
        ("arm64", "dotprod"),
        ("arm64-dotprod", "i8mm"),
        ("arm64-i8mm", "i8mm"),
    ],
)
def test_the_best_variant_runs(
    target: str, isa: str, files: dict[str, Path], emulator: Emulator
) -> None:
    remote = Remote(replace(emulator, cpu=PROCESSORS[isa]))
    tokens = MODEL.tokens(17)
    expected = Lab(files[target].parent).answer(MODEL, tokens)
    try:
        executable = opened(remote, files[target])
        assert executable.variant == isa
        state = executable.new_state(20)
        got = [state.step(part, rows="all").logits for part in (tokens[:16], tokens[16:])]
    finally:
        remote.close()
    assert error(np.concatenate(got), expected) < TOLERANCES["tvm"].quantized


@pytest.mark.parametrize(
    ("target", "isa", "why"),
    [
        ("arm64-i8mm", "dotprod",
         "They need i8mm. This processor offers dotprod; for i8mm it lacks i8mm."),
        ("arm64-dotprod", "neon",
         "They need dotprod or i8mm. This processor offers neon; for dotprod it lacks asimdhp, "
         "asimddp."),
    ],
)  # fmt: skip
def test_none_fits(
    target: str, isa: str, why: str, files: dict[str, Path], emulator: Emulator
) -> None:
    remote = Remote(replace(emulator, cpu=PROCESSORS[isa]))
    try:
        with pytest.raises(DeviceError) as refusal:
            opened(remote, files[target])
    finally:
        remote.close()
    assert f"{refusal.value.why}." == why


def test_the_command_says_it(files: dict[str, Path], emulator: Emulator) -> None:
    done = emulator.run("-m", "arkinfer", "run", files["arm64-i8mm"], "Hello")
    assert done.returncode == 4
    assert done.stderr.startswith("error: The artifact's kernels do not run on this processor.")
    assert "Traceback" not in done.stderr
