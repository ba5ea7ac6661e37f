"""Tuning: which candidate is taken, that a real measurement runs once, and where it cannot."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arkinfer
from arkinfer.artifact import open_artifact
from arkinfer.compiler.options import Asked, BuildOptions
from arkinfer.compiler.progress import Progress
from arkinfer.errors import UsageError
from arkinfer.machine.procfs import processor
from arkinfer.packing import parse_scheme
from arkinfer.testing import make_checkpoint, preset
from arkinfer_tvm import tune
from arkinfer_tvm.compiler import TvmCompiler
from arkinfer_tvm.cost import candidates
from arkinfer_tvm.isa import ISAS
from arkinfer_tvm.kernels import Finish, Inputs, Kernel, QuantLinear, Range
from arkinfer_tvm.layout import Stream
from tests.backends.tvm.kernel_lab import HERE, Lab, placed

OTHER = "arm64" if platform.machine() == "x86_64" else "x86-64-v3"


def product(most: int, isa: str = HERE[-1], scheme: str = "int4-g64-min") -> QuantLinear:
    stream = Stream.of(parse_scheme(scheme), (128, 192), ISAS[isa].arch)
    return QuantLinear(stream, Finish(), most)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([[100, 100, 100]], 0),
        ([[100, 100, 100], [99, 99, 99]], 0),  # within the noise
        ([[100, 100, 100], [97, 97, 97]], 1),
        ([[100, 100, 100], [97, 97, 97], [90, 91, 92]], 2),
        ([[100, 200, 100], [150, 180, 90]], 1),  # a slow round is one for all
        ([[100, 100, 100], [10, 101, 101]], 0),  # one lucky round is not enough
    ],
)
def test_which_is_taken(times: list[list[int]], expected: int) -> None:
    assert tune.choice(times) == expected


def test_runs_take_turns() -> None:
    now, told = [0], list[str]()

    def run(name: str, cost: int) -> Callable[[], None]:
        def go() -> None:
            told.append(name)
            now[0] += cost * (9 if len(told) <= 2 else 1)

        return go

    times = tune.measure([run("a", 5), run("b", 3)], 2, clock=lambda: now[0])
    assert told == ["a", "b"] * 3
    assert times == [[5, 5], [3, 3]]  # the first round is not counted


@pytest.mark.parametrize("digits", [1, 2])
def test_a_real_measurement(digits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one row, in one digit of 8 bits or two: what is found is a candidate."""
    monkeypatch.setattr(tune, "ROUNDS", 2)
    monkeypatch.setattr(tune, "_COLD", 1 << 20)
    kernel = replace(product(digits), digits=digits)
    asked: list[str] = []

    def made(works: Any) -> list[bytes]:
        asked.extend(work.name for work in works)
        return [work.make() for work in works]

    (found,) = tune.measured({kernel: "a"}, HERE[-1], made)
    assert asked == ["products of 1 row with 192 inputs in 4 bits"]
    assert isinstance(found, QuantLinear)
    known = candidates(ISAS[HERE[-1]], kernel.stream, kernel.most, digits)
    assert found.tiling in (None, *known[1:])


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("most", [1, 8, 40])
def test_every_candidate_computes_the_same(isa: str, most: int) -> None:
    """Bit by bit: so tuning cannot change an answer."""
    kernel = product(most, isa)
    stream, inputs = kernel.stream, Inputs.of(kernel.stream)
    kernels = [replace(kernel, tiling=each) for each in candidates(ISAS[isa], kernel.stream, most)]
    assert len(kernels) > 1
    rng, height = np.random.default_rng(3), most + 8
    given = {
        "weight": placed(rng.integers(32, 60, stream.shape), np.uint8),
        "codes": placed(rng.integers(-127, 128, (height, inputs.stride)), np.int8),
        "scales": placed(rng.random((height, inputs.scales)), np.float32),
        "sums": placed(rng.integers(-99, 99, (height, inputs.scales)), np.int32),
    }
    lab = Lab(isa, kernels)
    found: list[bytes] = []
    for each in kernels:
        out = placed(np.zeros((most, stream.rows)), np.float32)
        lab.run(each, most, {**given, "out": out, "count": most})
        assert np.isfinite(out).all()
        assert out.any()
        found.append(out.tobytes())
    lab.close()
    assert len(set(found)) == 1


def test_products_alike_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their channels are and whatever becomes of their sums; others stay as they are."""
    wide = product(8)
    narrow = replace(wide, stream=replace(wide.stream, rows=100))
    names: dict[Kernel, str] = {wide: "a", narrow: "b", product(1): "c", Range(): "d"}
    best = candidates(ISAS[HERE[-1]], wide.stream, 8)[1]
    asked: list[str] = []

    def made(works: Any) -> list[bytes]:
        asked.extend(work.name for work in works)
        assert {work.verb for work in works} == {"measuring"}
        few = {"rows": best.rows, "blocks": best.blocks, "few": best.few}
        return [json.dumps(few).encode(), b"null"]

    found = tune.measured(names, HERE[-1], made)
    assert asked == [
        "products of 8 rows with 192 inputs in 4 bits",
        "products of 1 row with 192 inputs in 4 bits",
    ]
    assert found == {
        replace(wide, tiling=best): "a", replace(narrow, tiling=best): "b",
        product(1): "c", Range(): "d",
    }  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = preset("tiny", hidden_size=128, intermediate_size=128, num_hidden_layers=1)
    return make_checkpoint(shape, 5, tmp_path_factory.mktemp("checkpoint") / "tiny")


def test_a_tuned_build_measures_once(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For real, with few turns: the second build measures nothing, and has the same bytes; one
    that is stopped keeps what it measured."""
    monkeypatch.setenv("ARKINFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tune, "ROUNDS", 2)
    monkeypatch.setattr(tune, "_COLD", 1 << 20)
    runs: list[int] = []
    real = tune.measure

    def measure(*given: Any) -> list[list[int]]:
        runs.append(len(given[0]))
        if len(runs) == 2:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(tune, "measure", measure)
    told: list[Progress] = []

    def build(name: str, **more: Any) -> arkinfer.BuildReport:
        return arkinfer.build(
            checkpoint, "cpu", "int4-g32", tmp_path / name, backend="tvm", context=64, chunk=4,
            embedding="none", on_progress=told.append, **more,
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        build("first.ark", tune=True)
    first = build("first.ark", tune=True)
    told_once = [moment.step for moment in told if moment.step.startswith("measuring ")]
    assert len(runs) == len(set(told_once)) + 1 > 3  # one was begun twice
    assert min(runs) > 1
    assert any(moment.step.startswith("measuring products of 1 row") for moment in told)
    count = len(runs)
    second = build("second.ark", tune=True)
    assert len(runs) == count
    assert first.tuned == second.tuned == processor()
    assert first.path.read_bytes() == second.path.read_bytes()
    with open_artifact(first.path) as artifact:
        assert artifact.manifest["tuned"] == processor()
    plain = build("plain.ark")
    assert plain.tuned is None
    with open_artifact(plain.path) as artifact:
        assert "tuned" not in artifact.manifest
    with arkinfer.load(first.path) as one, arkinfer.load(plain.path) as other:
        assert np.array_equal(one.logits([1, 2, 3]), other.logits([1, 2, 3]))


def test_other_processors_cannot_be_tuned_for() -> None:
    with pytest.raises(UsageError) as caught:
        BuildOptions.make(Asked(OTHER, backend="tvm", tune=True))
    assert caught.value.what == f"Kernels for {OTHER} cannot be tuned here"
    assert "which this processor does not have, and tuning is running them" in caught.value.why
    assert caught.value.fix == "Build with --tune on such a machine, or leave --tune out"


def test_other_backends_cannot_be_tuned() -> None:
    with pytest.raises(UsageError) as caught:
        BuildOptions.make(Asked("cpu", backend=("onnxruntime", "reference"), tune=True))
    assert caught.value.what == "onnxruntime and reference cannot be tuned"
    assert caught.value.fix == "Leave --tune out, or build with --backend tvm"


@pytest.mark.parametrize(
    ("quant", "activations", "other"),
    [("none", None, "quantize: --quant int4"), ("int4", "fp32", "leave --activations out")],
)
def test_nothing_to_tune(quant: str, activations: str | None, other: str) -> None:
    """A build without such products does not claim to be tuned."""
    options = BuildOptions.make(Asked("cpu", quant, "tvm", activations=activations, tune=True))
    with pytest.raises(UsageError) as caught:
        options.for_checkpoint({})
    assert caught.value.what == "There is nothing to tune"
    assert caught.value.fix == f"Leave --tune out, or {other}"


def test_one_backend_of_several_is_tuned() -> None:
    options = BuildOptions.make(Asked("cpu", backend=("tvm", "reference"), tune=True))
    assert options.tuned == processor()
    assert [each.name for each in options.compilers] == ["tvm", "reference"]
    assert isinstance(options.compilers[0], TvmCompiler)
