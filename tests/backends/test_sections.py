"""What compilers write and executors read: the same bytes twice, and nothing but what they need."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
import pytest

import arkinfer
from arkinfer.artifact import ArtifactWriter, Section, open_artifact, verify_artifact
from arkinfer.compiler.section import MeasuringWriter, SectionWriter
from arkinfer.compiler.weights import WeightStore
from arkinfer.errors import ArtifactError
from arkinfer.ir import Weight
from arkinfer.runtime.contract import LoadOptions
from arkinfer.testing import make_checkpoint, preset
from tests.backends.expectations import TOLERANCES
from tests.backends.lab import ON_CPU, ROOT, Lab, LabStore, error, executors
from tests.backends.models import MODELS

MODEL = MODELS["three layers int4"]


def test_the_same_model_gives_the_same_bytes(backend: str, lab: Lab, tmp_path: Path) -> None:
    again = lab.write(backend, MODEL, tmp_path / "again.ark")
    assert again.read_bytes() == lab.path(backend, MODEL).read_bytes()


def test_a_section_says_what_it_has_and_needs(backend: str, lab: Lab) -> None:
    path = lab.path(backend, MODEL)
    assert verify_artifact(path).size == path.stat().st_size
    with open_artifact(path) as artifact:
        section = artifact.sections[backend]
        assert json.loads(json.dumps(section.config)) == section.config
        assert len(set(section.tensors)) == len(section.tensors)
        for package, versions in section.requires.items():
            assert re.fullmatch(r"[a-z][a-z0-9-]*", package)
            assert re.fullmatch(r"([<>=!~]=?\d+(\.\d+)*,?)+", versions)


def test_weights_that_only_lead_to_others_stay_behind(backend: str, lab: Lab) -> None:
    with open_artifact(lab.path(backend, MODEL)) as artifact:
        stored = set(artifact.manifest["tensors"])
    assert not {name for name in stored if name.endswith(("q_proj.weight", "up_proj.weight"))}


def test_a_section_that_is_not_the_compilers(backend: str, lab: Lab) -> None:
    if backend in ON_CPU:
        return  # the executor for tests takes what it gets
    with open_artifact(lab.path(backend, MODEL)) as artifact:
        section = dataclasses.replace(artifact.sections[backend], config={})
        with pytest.raises(ArtifactError) as refusal:
            lab.executor(backend).open(artifact, section, LoadOptions())
    what = f'The section "{backend}" of "{artifact.path}" cannot be read'
    assert (refusal.value.what, refusal.value.fix) == (what, "Build the artifact again")


class Nothing:
    """A store that a plan has: it knows no number."""

    def load(self, weight: Weight) -> NoReturn:
        pytest.fail(f"@{weight.name} was read")

    def rows(self, weight: Weight, start: int, stop: int) -> NoReturn:
        self.load(weight)


def test_a_plan_counts_what_is_written_and_reads_no_weight(backend: str, lab: Lab) -> None:
    lowered, target = lab.lowered(backend, MODEL), lab.target(backend)
    counted = MeasuringWriter(backend, cast("WeightStore", Nothing()))
    lowered.compiler.compile(lowered.module, target, counted)
    with open_artifact(lab.path(backend, MODEL)) as artifact:
        written = {entry.name: entry.size for entry in artifact.entries()}
    del counted.entries["manifest.json"], written["manifest.json"]
    assert set(counted.entries) == set(written)
    for name in set(written):
        if name.endswith("/kernels.json") or "/libkernels-" in name:  # a plan makes no kernels
            del counted.entries[name], written[name]
    assert counted.entries == written


DEVICE_HALF = """
import sys
from importlib.metadata import EntryPoint
from arkinfer.artifact import open_artifact
from arkinfer.runtime.contract import LoadOptions
import numpy
name, value, path = sys.argv[1:]
executor = EntryPoint(name, value, "arkinfer.executors").load()()
with open_artifact(path) as artifact:
    executable = executor.open(artifact, artifact.sections[name], LoadOptions(threads=1))
    executable.new_state(4).step(numpy.array([1, 2]))
    executable.close()
print(",".join(sys.modules))
"""


def test_the_device_half_loads_nothing_of_the_host_half(backend: str, lab: Lab) -> None:
    if backend in ON_CPU:
        return  # it has no device half
    path = lab.path(backend, MODEL)
    command = [sys.executable, "-c", DEVICE_HALF, backend, executors()[backend], str(path)]
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'backends'}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.strip().split(","))
    host = {"torch", "transformers", "onnx", "tvm", "arkinfer.compiler", "arkinfer.passes"}
    host |= {"arkinfer.frontend", "arkinfer.models", "arkinfer.quant", "arkinfer.backend"}
    if backend != "reference":  # which interprets the IR
        host.add("arkinfer.ir")
    assert "arkinfer.artifact" in loaded
    assert not loaded & host


def test_sections_share_the_weights_that_they_use_as_they_are(lab: Lab, tmp_path: Path) -> None:
    """The reference and ONNX Runtime in one file: the larger of both, and little more."""
    pytest.importorskip("onnxruntime")
    sizes = [lab.path(name, MODEL).stat().st_size for name in ("reference", "onnxruntime")]
    with ArtifactWriter(tmp_path / "both.ark") as artifact:
        for name in ("reference", "onnxruntime"):
            lowered = lab.lowered(name, MODEL)
            store = LabStore(lowered.module.weights, MODEL.leaves)
            section = SectionWriter(name, artifact, store)
            lowered.compiler.compile(lowered.module, lab.target(name), section)
            finished: Section = section.finish()
            assert finished.backend == name
        path = artifact.commit(lab.facts(MODEL, "cpu"))
    # What differs: the table's scale and norms that rescale-residual changed, in 4 KiB entries.
    assert path.stat().st_size < max(sizes) + 30 * 4096


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, lab: Lab) -> dict[str, Path]:
    """A checkpoint built through the public API: one file per target, a section per backend."""
    folder = tmp_path_factory.mktemp("built")
    shape = preset("tiny", hidden_size=128, intermediate_size=256)
    checkpoint = make_checkpoint(shape, 5, folder / "checkpoint")
    targets: dict[str, list[str]] = {}
    for name in sorted(executors(), key=lambda name: (name != "reference", name)):
        if lab.missing(name) is None:
            targets.setdefault(lab.target(name).name, []).append(name)
    for target, names in targets.items():
        arkinfer.build(
            checkpoint, target, "int4", folder / f"{target}.ark",
            backend=tuple(names), context=64, chunk=16,
        )  # fmt: skip
    return {name: folder / f"{target}.ark" for target, names in targets.items() for name in names}


def test_from_checkpoint_to_logits(backend: str, built: dict[str, Path], lab: Lab) -> None:
    """Every pass included; the reference is what all are held to."""

    def logits(name: str) -> Any:
        executor = lab.executor(name)
        with arkinfer.load(built[name], backend=name, executor=executor, threads=2) as engine:
            ids = np.random.default_rng(6).integers(0, engine.vocab_size, 40)
            return engine.logits(ids.tolist())

    expected = logits("reference")
    assert error(logits(backend), expected) < TOLERANCES[backend].quantized
    assert float(expected.std()) > 0.1
