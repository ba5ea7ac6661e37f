"""`arkinfer prepare`, what other commands do without it, and `--device`."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from arkinfer.artifact import pages
from arkinfer.cli import progress
from arkinfer.machine.folders import cache_folder
from arkinfer.runtime import registry
from arkinfer.runtime.contract import Preparer
from tests.runtime.artifacts import write_artifact
from tests.runtime.bigram import BigramExecutor
from tests.runtime.preparing import PreparingExecutor

Ark = Callable[..., Any]
Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes these the executors of this process, by backend."""

    def make(**classes: str) -> None:
        known = {
            name: EntryPoint(name, f"tests.runtime.{value}", registry.GROUP)
            for name, value in classes.items()
        }
        monkeypatch.setattr(registry, "executors", lambda: known)

    return make


@pytest.fixture
def board(tmp_path: Path, install: Install) -> Path:
    """An artifact for a GPU and a processor, on a machine that runs both."""
    install(tensorrt="preparing:PreparingExecutor", bigram="bigram:BigramExecutor")
    return artifact(tmp_path / "m.ark")


def artifact(path: Path, backends: tuple[str, ...] = ("tensorrt", "bigram"), **facts: Any) -> Path:
    return write_artifact(path, backends=backends, tokens={"bos": 1, "stop": []}, **facts)


def engines(folder: Path | None = None) -> list[Path]:
    return sorted((folder or cache_folder()).glob("*.engine"))


def test_the_executors_of_these_tests_keep_the_contract():
    assert isinstance(PreparingExecutor(), Preparer)
    assert not isinstance(BigramExecutor(), Preparer)


def test_what_is_made_is_shown_and_kept(ark: Ark, board: Path):
    result = ark("prepare", board)
    assert (result.code, result.err) == (0, "")
    (path,) = engines()
    assert result.out == (
        f"{board} is ready for tensorrt on this device.\n"
        "took      0 s\n"
        f"size      {path.stat().st_size} B\n"
        f"kept      {path}\n"
        "network   gemv\n"
        "measured  network: gemv 1.2 ms, native 1.5 ms; gemv was taken\n"
    )
    again = ark("prepare", board)
    assert again.out.startswith(f"{board} is ready for tensorrt on this device, and was before.\n")


def test_json(ark: Ark, board: Path):
    facts = json.loads(ark("prepare", board, "--network", "native", "--json").out)
    (path,) = engines()
    assert (facts["path"], facts["backend"], facts["needed"]) == (str(board), "tensorrt", True)
    made = facts["prepared"]
    assert (made["path"], made["nbytes"], made["reused"], made["network"]) == (
        str(path), path.stat().st_size, False, "native",
    )  # fmt: skip
    assert set(made) == {
        "path", "nbytes", "seconds", "reused", "network", "choices", "notes", "facts",
    }  # fmt: skip
    nothing = json.loads(ark("prepare", board, "--device", "cpu", "--json").out)
    assert nothing == {
        "path": str(board), "backend": "bigram", "needed": False, "prepared": None,
    }  # fmt: skip


def test_another_folder(ark: Ark, board: Path, tmp_path: Path):
    assert ark("prepare", board, "--cache", tmp_path / "own").code == 0
    assert ark("run", board, "hi", "--max-new-tokens", 2, "--cache", tmp_path / "own").err == ""
    assert (len(engines(tmp_path / "own")), engines()) == (1, [])


def test_a_folder_that_takes_nothing(ark: Ark, board: Path, tmp_path: Path):
    (tmp_path / "file").write_text("x")
    result = ark("prepare", board, "--cache", tmp_path / "file" / "cache")
    assert result.code == 0
    assert "kept      nowhere: each run prepares it again\n" in result.out
    assert result.err == f"note: {tmp_path}/file/cache cannot be written\n"


def test_run_says_on_such_a_folder_that_it_begins_anew(ark: Ark, board: Path, tmp_path: Path):
    (tmp_path / "file").write_text("x")
    ask = ("run", board, "hi", "--max-new-tokens", 2, "--cache", tmp_path / "file" / "cache")
    for said in (ark(*ask).err, ark(*ask).err):
        assert said.startswith(f"note: {board} was prepared for this device in 0 s: ")
        assert said.endswith(
            " B, not kept, so that each run makes it\n"
            f"note: {tmp_path}/file/cache cannot be written\n"
        )


def test_what_is_long_is_told_on_lines_of_its_own(
    ark: Ark, tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch
):
    install(bigram="preparing:PreparingExecutor")
    monkeypatch.setattr(progress, "_FIRST", 0.02)
    monkeypatch.setattr(PreparingExecutor, "_check", lambda *_: __import__("time").sleep(0.3))
    result = ark("prepare", artifact(tmp_path / "m.ark", ("bigram",)))
    assert "m.ark: 0 s so far; how long it takes is not known" in result.err
    assert "\x1b" not in result.err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--weights", "input"],
         '--weights cannot be "input". Did you mean "inputs"? Known: constants, inputs.'),
        (["--network", "gem"], 'The section has no network "gem".'),
        (["--device", "cpu", "--network", "gemv"],
         "--network has nothing to choose. Sections for bigram run as they are. Leave it out."),
        (["--device", "tpu"], 'There is no device "tpu". Did you mean "gpu"? Known: cpu, gpu.'),
        (["--device", "cpu", "--backend", "bigram"],
         "--backend and --device cannot be combined. Each of them says which section to run. "
         "Leave out one of them."),
    ],
)  # fmt: skip
def test_requests_that_cannot_be_met(ark: Ark, board: Path, options: list[str], text: str):
    result = ark("prepare", board, *options)
    assert (result.code, result.out, result.err) == (2, "", f"error: {text}\n")
    assert engines() == []


@pytest.mark.parametrize(
    ("backends", "device", "text"),
    [
        (("tensorrt",), "cpu", "The artifact has no section for the processor. It was built for: "
         "tensorrt. Build it without --no-cpu."),
        (("bigram",), "gpu", "The artifact has no section for a GPU. It was built for: bigram. "
         "Build it for one: arkinfer build --target jetson-orin."),
    ],
)  # fmt: skip
def test_a_device_that_it_was_not_built_for(
    ark: Ark, tmp_path: Path, board: Path, backends: tuple[str, ...], device: str, text: str
):
    path = artifact(tmp_path / "n.ark", backends)
    result = ark("run", path, "hi", "--device", device)
    assert (result.code, result.err) == (2, f"error: {text}\n")


def test_run_prepares_by_itself_and_says_so_once(ark: Ark, board: Path):
    ask = ("run", board, "hi", "--max-new-tokens", 4)
    first = ark(*ask)
    (path,) = engines()
    assert first.err == (
        f"note: {board} was prepared for this device in 0 s: {path.stat().st_size} B, kept in "
        f"{path}\n"
    )
    second = ark(*ask)
    assert (second.err, second.out) == ("", first.out)
    assert ark(*ask, "--device", "gpu").out == first.out


@pytest.mark.parametrize("command", ["prepare", "run", "eval"])
def test_what_is_missing_is_said_and_the_processor_offered(
    ark: Ark, tmp_path: Path, install: Install, command: str
):
    install(tensorrt="preparing:LackingExecutor", bigram="bigram:BigramExecutor")
    path, text = artifact(tmp_path / "m.ark"), tmp_path / "text.txt"
    text.write_text("A list holds values in order, and grows at its end.\n")
    words = {"prepare": [], "run": ["hi", "--max-new-tokens", 3], "eval": ["--text", text]}[command]
    for chosen in ([], ["--device", "gpu"], ["--backend", "tensorrt"]):
        result = ark(command, path, *words, *chosen)
        assert (result.code, result.out, result.err) == (
            4, "", "error: This machine has no TensorRT. The section needs it. Install it. "
            "Or run the artifact's section for the processor: --device cpu.\n",
        )  # fmt: skip
    result = ark(command, path, *words, "--device", "cpu")
    assert (result.code, result.err) == (0, "")


def test_nothing_is_offered_that_is_not_there(ark: Ark, tmp_path: Path, install: Install):
    install(tensorrt="preparing:LackingExecutor")
    result = ark("run", artifact(tmp_path / "m.ark", ("tensorrt",)), "hi")
    assert (result.code, result.err) == (
        4, "error: This machine has no TensorRT. The section needs it. Install it.\n"
    )  # fmt: skip


def test_measuring_begins_when_all_is_prepared(
    ark: Ark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its workers are processes of their own, and each would count the building as loading."""
    from tests.runtime.artifacts import write_plugin

    site = write_plugin(tmp_path / "site", value="tests.runtime.preparing:PreparingExecutor")
    monkeypatch.syspath_prepend(site)
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{site}:{root}:{root / 'backends'}")
    path = artifact(tmp_path / "m.ark", ("bigram",))
    result = ark("bench", path, "--quick", "--tokens", 2, "--rounds", 1)
    assert result.code == 0, result.err
    assert result.err.startswith(f"note: {path} was prepared for this device in ")
    assert len(engines()) == 1


def test_a_file_that_needs_nothing_is_read_afresh(
    ark: Ark, install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """When nothing has it open any more; what the system refuses is no error."""
    install(bigram="bigram:BigramExecutor")
    path, renewed = artifact(tmp_path / "m.ark", ("bigram",)), list[Path]()

    def renew(file: Path) -> None:
        assert str(file) not in Path("/proc/self/maps").read_text()
        renewed.append(file)
        raise OSError("this file system forgets nothing")

    monkeypatch.setattr(pages, "renew", renew)
    result = ark("prepare", path)
    assert (result.code, result.err) == (0, "")
    assert renewed == [path]
