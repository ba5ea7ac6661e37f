"""Executors and packages that are there, missing, too old, crash or hang when imported."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from arkinfer.doctor import builders, runtimes
from arkinfer.doctor.finding import Finding
from arkinfer.doctor.host import Host
from arkinfer.doctor.install import MANAGERS, PACKAGES, pip
from tests.runtime.artifacts import write_plugin

Hosts = Callable[..., Host]
Module = Callable[[str, str], None]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Module:
    """Puts a package in front of the one that is installed."""
    site = tmp_path / "site"

    def make(name: str, source: str) -> None:
        folder = site / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").write_text(source)

    site.mkdir()
    monkeypatch.syspath_prepend(site)
    return make


def find(findings: list[Finding], name: str) -> Finding:
    return next(finding for finding in findings if finding.name == name)


def test_this_machine_runs_what_its_tests_run(make_host: Hosts):
    findings = runtimes.check(make_host(real=True))
    assert {f.name: f.state for f in findings if f.name != "tensorrt"} == {
        "arkinfer": "ok", "onnxruntime": "ok", "reference": "ok", "tvm": "ok",
    }  # fmt: skip
    import onnxruntime

    assert find(findings, "reference").detail == ""
    assert find(findings, "onnxruntime").detail == f"onnxruntime {onnxruntime.__version__}"


def test_an_executor_for_gpus_is_no_gap_where_there_is_none(
    make_host: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    known = {"tensorrt": EntryPoint("tensorrt", "tests.runtime.preparing:LackingExecutor", "g")}
    monkeypatch.setattr(runtimes, "executors", lambda: known)
    found = find(runtimes.check(make_host()), "tensorrt")
    assert (found.state, found.detail) == ("missing", "there is no NVIDIA GPU here")
    assert not found.gap


def test_an_executor_says_what_its_device_lacks(
    make_host: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(
        write_plugin(tmp_path / "lacking", value="tests.runtime.preparing:LackingExecutor")
    )
    found = find(runtimes.check(make_host()), "bigram")
    assert (found.state, found.gap) == ("missing", True)
    assert found.detail == "This machine has no TensorRT. The section needs it"
    assert found.fix == "Install it"


@pytest.mark.parametrize(
    ("source", "state", "detail", "fix"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "broken",
         "importing it fails: it crashed (SIGSEGV)",
         'install "onnxruntime>=1.23" --force-reinstall'),
        ("raise ImportError('libfoo.so.1: cannot open shared object file')", "broken",
         "importing it fails: ImportError: libfoo.so.1: cannot open shared object file",
         'install "onnxruntime>=1.23" --force-reinstall'),
        ("__version__ = '1.15.1'", "broken",
         "version 1.15.1 is installed, arkinfer needs >=1.23", 'install "onnxruntime>=1.23"'),
        ("raise ModuleNotFoundError(name='onnxruntime')", "missing", "it is not installed",
         'install "arkinfer[ort]"'),
        ("import time; time.sleep(60)", "not known", "importing it: it did not end within 3 s", ""),
        ("import os; os._exit(0)", "not known", "importing it: it gave no answer", ""),
        ("__version__ = '1.99.0'\nprint('{\"hello\": 1}', end='')", "ok", "1.99.0", ""),
    ],
    ids=["crash", "library", "old", "absent", "hang", "silent", "talks"],
)  # fmt: skip
def test_a_package(
    make_host: Hosts, module: Module, source: str, state: str, detail: str, fix: str
):
    module("onnxruntime", source)
    host = make_host(real=True, seconds=3.0 if "sleep" in source else 20.0)
    found = runtimes.package(host, "onnxruntime", ">=1.23", "ort")
    assert (found.state, found.detail) == (state, detail)
    assert found.fix.endswith(fix)
    assert bool(found.fix) == bool(fix)


def test_a_crash_says_where(make_host: Hosts, module: Module):
    module("onnxruntime", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    found = find(runtimes.check(make_host(real=True)), "onnxruntime")
    assert (found.state, found.gap) == ("broken", True)
    assert found.detail == "onnxruntime: importing it fails: it crashed (SIGSEGV)"
    assert any("onnxruntime/__init__.py" in note for note in found.notes)


def test_an_executor_whose_library_is_missing(
    make_host: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(write_plugin(tmp_path / "plug", value="no_such_module:X"))
    found = find(runtimes.check(make_host(real=True)), "bigram")
    assert found.state == "missing"
    assert found.detail == (
        'The backend "bigram" cannot run here. The Python package "no_such_module" is missing'
    )


def test_an_installation_that_lost_a_package(make_host: Hosts, monkeypatch: pytest.MonkeyPatch):
    wanted = {"numpy": ">=1.26", "no-such-package": ">=2", "typer": ">=99"}
    monkeypatch.setattr(runtimes, "requirements", lambda extra: wanted)
    found = runtimes.itself(make_host())
    assert found.state == "broken"
    assert found.detail.startswith("no-such-package is not installed; typer is ")
    assert found.detail.endswith(", and >=99 is needed")
    assert found.fix.endswith('install "arkinfer"')


def test_what_an_extra_installs():
    assert runtimes.requirements("ort").keys() == {"onnxruntime"}
    assert runtimes.requirements("ort")["onnxruntime"].startswith(">=1.")
    assert {"numpy", "pydantic", "typer"} <= runtimes.requirements("").keys()
    assert not {"torch", "onnxruntime", "tomli"} & runtimes.requirements("").keys()
    assert {"torch", "onnx", "apache-tvm"} <= runtimes.requirements("build").keys()
    assert runtimes.requirements("tvm") == runtimes.requirements("no-such-extra") == {}


def test_a_machine_without_what_builds_need(make_host: Hosts, module: Module):
    """One finding, and no compiler is asked: nobody wants to read it seven times."""
    for name in ("torch", "onnx", "onnxruntime", "tvm", "threadpoolctl", "huggingface_hub"):
        module(name, f"raise ModuleNotFoundError(name={name!r})")
    (found,) = builders.check(make_host(real=True))
    assert (found.name, found.state) == ("packages", "missing")
    assert found.detail.startswith("not installed: ")
    assert "torch" in found.detail
    assert found.fix.endswith('install "arkinfer[build]"')


def test_a_compiler_whose_package_is_missing(make_host: Hosts, module: Module):
    module("tvm", "raise ModuleNotFoundError(name='tvm')")
    findings = builders.targets(make_host(real=True), ["cpu"])
    assert find(findings, "target cpu").detail == "by onnxruntime, reference"
    missing = find(findings, "cpu by tvm")
    assert missing.state == "missing"
    assert missing.fix == 'Install it: pip install "arkinfer[build]"'


def test_a_compiler_whose_linker_is_missing(make_host: Hosts, module: Module):
    """The TVM compiler's own words: $CC does not exist, and there is no cross compiler."""
    module("ziglang", "")
    host = make_host(real=True, CC="no-such-cc", PATH="/no-such-folder")
    board = "jetson-orin" if platform.machine() == "x86_64" else "rtx-4090"
    findings = builders.targets(host, ["cpu", "arm64", "x86-64-v3", board])
    assert find(findings, "target cpu").detail == "by onnxruntime, reference"
    own = {platform.machine(): "no-such-cc"}
    for name, arch in (("cpu", platform.machine()), ("arm64", "aarch64"), ("x86-64-v3", "x86_64")):
        missing = find(findings, f"{name} by tvm")
        assert missing.state == "missing"
        assert (
            f'There is no C compiler "{own.get(arch, f"{arch}-linux-gnu-gcc")}"' in missing.detail
        )
    assert find(findings, "cpu by tvm").fix == "Set CC to a C compiler that works here, or unset it"
    other = "arm64" if platform.machine() == "x86_64" else "x86-64-v3"
    assert find(findings, f"target {board}").detail == "by tensorrt"
    for name in (other, board):  # a board's cores are compiled for, too
        assert find(findings, f"{name} by tvm").fix == (
            'Install one that can: pip install "arkinfer[cross]"'
        )


def test_pip_is_that_of_this_python(make_host: Hosts, script: Callable[[str, str], Path]):
    script("pip", "exit 0")
    assert pip(make_host(), "a>=1") == f'{sys.executable} -m pip install "a>=1"'
    ours = make_host(PATH=str(Path(sys.executable).parent))
    assert pip(ours, "a", "b") == 'pip install "a" "b"'


def test_every_package_manager_of_the_table_is_known():
    assert {name for packages in PACKAGES.values() for name in packages} <= set(MANAGERS)
