"""A file for a Jetson as its user meets it: by the real executor on a fake board, and elsewhere."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from arkinfer.compiler.build import build
from arkinfer.machine.c_compiler import find_c_compiler
from arkinfer.runtime import registry
from arkinfer.testing import make_checkpoint
from arkinfer_trt import board
from arkinfer_trt.board import Software, read_board
from tests.backends.trt.boards import DESKTOP, JETPACK_6_2, JETPACK_7_2
from tests.backends.trt.fake import installed
from tests.backends.trt.fake.machine import Machine
from tests.machine import machines

Ark = Callable[..., Any]
Place = Callable[..., None]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model for any Orin, with a section that every processor runs, this one as well."""
    folder = tmp_path_factory.mktemp("board")
    return build(
        make_checkpoint("tiny", 0, folder / "tiny"), target="jetson-orin",
        backend=("tensorrt", "onnxruntime"), context=128, chunk=32, output=folder / "m.ark",
    ).path  # fmt: skip


@pytest.fixture(autouse=True)
def executors(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are installed with arkinfer."""
    known = {
        "tensorrt": "arkinfer_trt.executor:TensorRTExecutor",
        "onnxruntime": "arkinfer_ort.executor:OnnxRuntimeExecutor",
        "tvm": "arkinfer_tvm.executor:TvmExecutor",
    }
    entries = {name: EntryPoint(name, value, registry.GROUP) for name, value in known.items()}
    monkeypatch.setattr(registry, "executors", lambda: entries)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """What the executor finds of the system, and of Python's packages."""

    def place(files: dict[str, str], software: Software | None) -> None:
        root = machines.build(tmp_path / "root", files)
        monkeypatch.setattr("arkinfer_trt.executor.read_board", lambda: read_board(root, software))

    return place


@pytest.fixture
def orin(machine: Place) -> Iterator[Machine]:
    """JetPack 7.2 on an AGX Orin, with all that is needed."""
    with installed(Machine()) as found:
        machine(JETPACK_7_2, Software(found.tensorrt, bindings="13.2.0"))
        yield found


def test_prepare_and_run(ark: Ark, file: Path, orin: Machine) -> None:
    made = ark("prepare", file)
    assert (made.code, made.err) == (0, ""), made
    assert made.out.startswith(f"{file} is ready for tensorrt on this device.\n")
    assert re.search(
        r"^measured  network: (gemv|native) [\d.]+ ms, (gemv|native) [\d.]+ ms; \1 was taken$",
        made.out, re.M,
    )  # fmt: skip
    assert re.search(r"^kept      .+/engines/[0-9a-f]{2}/[0-9a-f]{62}$", made.out, re.M)
    builds = len(orin.builds)
    ask = ("run", file, "What is a list?", "--raw", "--max-new-tokens", 12)
    answer = ark(*ask)
    assert (answer.code, answer.err, len(orin.builds)) == (0, "", builds)
    facts = json.loads(ark(*ask, "--json").out)
    assert (facts["backend"], facts["tokens"]) == ("tensorrt", 12)
    assert answer.out.strip() == facts["text"].strip()
    kinds = json.loads(ark("cache", "ls", "--json").out)["kinds"]
    assert kinds["engines"]["entries"] == 1


def test_run_prepares_by_itself(ark: Ark, file: Path, orin: Machine) -> None:
    result = ark("run", file, "What is a list?", "--raw", "--max-new-tokens", 3)
    assert result.code == 0
    assert re.match(
        r"note: .*m\.ark was prepared for this device in \d+ s: [\d.]+ [KM]iB, kept in /.+\n",
        result.err,
    )


def test_facts_for_a_report(ark: Ark, file: Path, orin: Machine) -> None:
    first = json.loads(ark("prepare", file, "--network", "gemv", "--json").out)["prepared"]
    again = json.loads(ark("prepare", file, "--network", "gemv", "--json").out)["prepared"]
    other = json.loads(ark("prepare", file, "--network", "native", "--json").out)["prepared"]
    assert (first["facts"]["timing_cache"], other["facts"]["timing_cache"]) == (False, True)
    assert first["facts"]["peak_memory"] > 50 << 20
    assert again == {**first, "reused": True}


def test_answers_are_verified(ark: Ark, file: Path, orin: Machine) -> None:
    facts = json.loads(ark("verify", file, "--json").out)
    checks = {check["name"]: check for check in facts["checks"]}
    assert {name: check["ok"] for name, check in checks.items()} == {
        "integrity": True, "signature": None, "reference": True, "source": True,
    }  # fmt: skip
    assert checks["reference"]["backend"] == "tensorrt"
    assert checks["reference"]["kl"] < 1e-4


OFFER = " Or run the artifact's section for the processor: --device cpu.\n"


@pytest.mark.parametrize(
    ("files", "software", "begins"),
    [
        (DESKTOP, Software(), "error: This machine has no TensorRT. "),
        (JETPACK_6_2, Software("10.3.0"),
         "error: JetPack 6.2 (L4T 36.4.3) cannot finish this artifact for the GPU. "),
        (JETPACK_7_2, Software(), "error: This Python has no TensorRT. "),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["run", "prepare", "verify"])
def test_what_is_missing_is_said_before_anything_loads_and_the_processor_offered(
    ark: Ark, file: Path, machine: Place, monkeypatch: pytest.MonkeyPatch, command: str,
    files: dict[str, str], software: Software, begins: str,
) -> None:  # fmt: skip
    machine(files, software)
    words = ["What is a list?", "--raw", "--max-new-tokens", 4] if command == "run" else []
    result = ark(command, file, *words)
    assert result.code == 4
    assert result.err.startswith(begins)
    assert result.err.endswith(OFFER)
    assert ark(command, file, *words, "--device", "cpu").code == 0


def test_this_machine(ark: Ark, file: Path) -> None:
    """Nothing is faked: whoever has no TensorRT reads this."""
    if board.read_software().tensorrt:
        pytest.skip("this machine has TensorRT")
    result = ark("run", file, "What is a list?", "--raw")
    assert (result.code, result.out) == (4, "")
    assert result.err.endswith(OFFER)
    answer = ark("run", file, "What is a list?", "--raw", "--max-new-tokens", 4, "--device", "cpu")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.strip()


PORTABLE = ["--backend", "tensorrt", "--backend", "onnxruntime"]


@pytest.mark.slow
@pytest.mark.parametrize("cores", [True, False])
def test_what_a_build_says_to_do_next(ark: Ark, file: Path, tmp_path: Path, cores: bool) -> None:
    path = tmp_path / "n.ark"
    options = ["--target", "jetson-orin", "--context", 128, "--chunk", 32, "-o", path]
    result = ark("build", file.parent / "tiny", *options, *(PORTABLE if cores else ["--no-cpu"]))
    assert result.code == 0, result.err
    here = f'; here: arkinfer run {path} "…" --device cpu' if cores else ""
    assert result.out.splitlines()[-1] == f"next      on its device: arkinfer prepare {path}{here}"
    ran = ark("run", path, "A list", "--raw", "--max-new-tokens", 2, "--device", "cpu")
    assert (ran.code, ran.err) == ((0, "") if cores else (
        2, "error: The artifact has no section for the processor. It was built for: tensorrt. "
        "Build it without --no-cpu.\n",
    ))  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(find_c_compiler("aarch64") is None, reason="needs a C compiler for aarch64")
@pytest.mark.skipif(platform.machine() == "aarch64", reason="the board's cores are like these")
def test_cores_that_are_not_these_are_not_offered(ark: Ark, file: Path, tmp_path: Path) -> None:
    path = tmp_path / "n.ark"
    options = ["--target", "jetson-orin", "--context", 64, "--chunk", 1, "-o", path]
    result = ark("build", file.parent / "tiny", *options)
    assert result.code == 0, result.err
    assert result.out.splitlines()[-1] == f"next      on its device: arkinfer prepare {path}"
    if not board.read_software().tensorrt:
        result = ark("run", path, "hi")
        assert (result.code, result.out) == (4, "")
        assert result.err.endswith(
            ". The section for the processor does not run here either: The artifact's kernels were "
            f"compiled for linux-aarch64. This machine is linux-{platform.machine()}. Build it for "
            "this machine: arkinfer build --target cpu --backend tvm.\n"
        )
