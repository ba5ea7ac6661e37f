"""Executors by entry point: found, missing, broken, in conflict."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import arkinfer
from arkinfer.artifact import Artifact, Section, open_artifact
from arkinfer.errors import ArkError, ArtifactError, DeviceError, InternalError, UsageError
from arkinfer.runtime import registry
from arkinfer.runtime.contract import Executable, LoadOptions
from tests.runtime.artifacts import write_artifact, write_plugin
from tests.runtime.bigram import BigramExecutor


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return write_artifact(tmp_path / "m.ark")


def failure(kind: type[ArkError], path: Path, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        arkinfer.load(path, **options)
    return str(caught.value)


def test_an_installed_executor_is_found(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(write_plugin(tmp_path / "site"))
    with arkinfer.load(artifact) as engine:
        assert engine.backend == "bigram"
        assert engine.logits([1, 2, 3]).shape == (3, engine.vocab_size)


def test_an_unknown_executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(write_plugin(tmp_path / "site"))
    path = write_artifact(tmp_path / "m.ark", backends=("bigrams",))
    text = failure(DeviceError, path)
    assert text.startswith(
        'No executor for the backend "bigrams" is installed. The section needs one to run; this '
        "device has: bigram"
    )
    assert text.endswith("Install the Python package that brings it.")


def test_no_executor_at_all(artifact: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", [])
    with open_artifact(artifact) as opened, pytest.raises(DeviceError) as caught:
        registry.open_section(opened, None, LoadOptions())
    assert str(caught.value) == (
        "No executor is installed. arkinfer runs from a folder that was never installed. "
        'Install it: pip install "arkinfer[ort]", or in a checkout pip install -e ".[ort]".'
    )


def test_two_executors_of_one_name(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(write_plugin(tmp_path / "one"))
    other = write_plugin(tmp_path / "two", value="other:Executor")
    info = other / "bigram_plugin-1.0.dist-info"
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-plugin\nVersion: 1.0\n")
    info.rename(other / "other_plugin-1.0.dist-info")
    monkeypatch.syspath_prepend(other)
    text = failure(UsageError, artifact)
    assert text == (
        'Two executors are named "bigram". One is other:Executor, the other '
        "tests.runtime.bigram:BigramExecutor. Uninstall the package that offers one of them."
    )


@pytest.mark.parametrize(
    ("module", "kind", "text"),
    [
        ("import no_such_library.part", DeviceError, 'The backend "bigram" cannot run here. The '
         'Python package "no_such_library" is missing. Install that package.'),
        ("raise ImportError('libx.so.1: cannot open shared object file')", DeviceError,
         'The backend "bigram" cannot run here. libx.so.1: cannot open shared object file. '
         "Install that package."),
        ("import arkinfer.nothing", InternalError, 'The executor "bigram" cannot be imported. No '
         "module named 'arkinfer.nothing'."),
    ],
)  # fmt: skip
def test_a_library_is_missing(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str,
    kind: type[ArkError], text: str,
):  # fmt: skip
    site = write_plugin(tmp_path / "site", value="lacking_plugin:Executor")
    (site / "lacking_plugin.py").write_text(module + "\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "lacking_plugin", raising=False)
    assert failure(kind, artifact) == text


class Lacking:
    """An executor whose library turns out to be missing when it opens a section."""

    name = "onnxruntime"

    def open(self, artifact: Artifact, section: Section, options: LoadOptions) -> Executable:
        raise ImportError("No module named 'onnxruntime'", name="onnxruntime")


def test_our_own_backends_name_their_extra(tmp_path: Path):
    path = write_artifact(tmp_path / "m.ark", backends=("onnxruntime",))
    text = failure(DeviceError, path, executor=Lacking())
    assert text == (
        'The backend "onnxruntime" cannot run here. The Python package "onnxruntime" is missing. '
        'Install it: pip install "arkinfer[ort]".'
    )


def test_the_first_section_is_the_default(tmp_path: Path):
    path = write_artifact(tmp_path / "m.ark", backends=("bigram", "tvm"))
    with open_artifact(path) as artifact:
        assert registry.choose_section(artifact, None).backend == "bigram"
        assert registry.choose_section(artifact, "tvm").backend == "tvm"
        with pytest.raises(UsageError) as caught:
            registry.choose_section(artifact, "tensorrt")
    assert str(caught.value) == (
        'The artifact has no section for the backend "tensorrt". It was built for: bigram, tvm. '
        "Name one of these, or build it for that backend."
    )


def test_an_artifact_with_nothing_to_run(tmp_path: Path):
    path = write_artifact(tmp_path / "m.ark", backends=())
    assert failure(ArtifactError, path) == (
        "The artifact has nothing to run. It holds no backend's section. Build it again."
    )


def test_another_section_is_named_but_never_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(write_plugin(tmp_path / "site"))
    path = write_artifact(
        tmp_path / "m.ark", backends=("bigram", "reference"), requires={"missing-chip": ">=1"}
    )
    sentence = "This device has no such chip. The section needs it. Buy one."
    assert failure(DeviceError, path) == (
        f'{sentence} Or run another section of the artifact: backend "reference".'
    )
    assert failure(DeviceError, path, backend="bigram") == sentence


def test_a_section_that_does_not_run_either_is_not_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The third one is named, for the second needs a package that nobody has."""
    monkeypatch.syspath_prepend(write_plugin(tmp_path / "site"))
    path = tmp_path / "m.ark"
    needs = {"missing-chip": ">=1"}
    write_artifact(path, backends=("bigram", "unheard-of", "reference"), requires=needs)
    sentence = "This device has no such chip. The section needs it. Buy one."
    assert failure(DeviceError, path) == (
        f'{sentence} Or run another section of the artifact: backend "reference".'
    )
    write_artifact(path, backends=("bigram", "unheard-of"), requires=needs)
    assert failure(DeviceError, path) == sentence


def test_a_failed_load_closes_what_it_opened(tmp_path: Path, artifact: Path):
    opened: list[Any] = []

    class Watched(BigramExecutor):
        def open(self, artifact: Artifact, section: Section, options: LoadOptions) -> Any:
            opened.append(super().open(artifact, section, options))
            return opened[-1]

    failure(UsageError, artifact, executor=Watched(), context=99999)
    assert opened[0].closed


def test_the_first_section_on_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(write_plugin(tmp_path / "site"))
    path = write_artifact(tmp_path / "m.ark", backends=("tensorrt", "bigram", "reference"))
    with open_artifact(path) as artifact:
        assert registry.choose_section(artifact, None, "gpu").backend == "tensorrt"
        assert registry.choose_section(artifact, None, "cpu").backend == "bigram"
    with arkinfer.load(path, device="cpu", options=LoadOptions(observe=True)) as engine:
        assert engine.backend == "bigram"
