"""The program itself: help, version, errors as sentences and as JSON, signals, completion."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import arkinfer
from arkinfer import cli, errors
from arkinfer.cli import failure

Start = Callable[..., "subprocess.Popen[bytes]"]
V1 = Path(__file__).parents[1] / "artifact" / "formats" / "v1.ark"


def test_help_lists_every_command(ark: Callable[..., Any]):
    for args in (["--help"], ["-h"], []):
        result = ark(*args)
        assert result.code == 0
        for name, text in cli.COMMANDS.items():
            assert re.search(rf"^  {name} +{re.escape(text)}$", result.out, re.M), name


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_has_json_and_an_example(ark: Callable[..., Any], name: str):
    result = ark(name, "--help")
    assert result.code == 0
    assert "--json" in result.out
    assert f"Example: arkinfer {name} " in result.out


def test_version(ark: Callable[..., Any]):
    assert ark("--version").out == f"arkinfer {arkinfer.__version__}\n"


@pytest.mark.parametrize("args", [["--help"], ["--version"]])
def test_help_loads_little_and_quickly(args: list[str]):
    script = (
        "import sys, time; start = time.perf_counter(); from arkinfer.cli import main; "
        f"main({args}); spent = time.perf_counter() - start; "
        "print(spent, *sorted({n.partition('.')[0] for n in sys.modules}), file=sys.stderr)"
    )
    spent = []
    for _ in range(5):
        seconds, *modules = _errors_of(script).split()
        spent.append(float(seconds))
        assert not {"numpy", "pydantic", "tokenizers", "torch", "rich", "jinja2"} & {*modules}
    assert min(spent) < 0.2


def _errors_of(script: str) -> str:
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    return result.stderr


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["rum"], 2, 'There is no command "rum". Did you mean "run"? Known: '
         f"{', '.join(sorted(cli.COMMANDS))}."),
        (["verify"], 2, r"""Missing argument '\S*'. See "arkinfer verify --help"."""),
        (["verify", "a", "b"], 2,
         r'Got unexpected extra argument.*b.*. See "arkinfer verify --help".'),
        (["verify", "x.ark", "--fast"], 2,
         r'''No such option:? \S*--fast\S*. See "arkinfer verify --help".'''),
        (["--fast"], 2, r'''No such option:? \S*--fast\S*. See "arkinfer --help".'''),
        (["run", "x.ark", "hi", "--top-k", "many"], 2,
         r"Invalid value for '--top-k': .*. See \"arkinfer run --help\"."),
        (["verify", "no.ark"], 2, 'There is no file "no.ark". Check the path.'),
    ],
)  # fmt: skip
def test_usage_errors(ark: Callable[..., Any], args: list[str], code: int, text: str):
    result = ark(*args)
    assert result.code == code
    assert result.out == ""
    pattern = text if "\\" in text or ".*" in text else re.escape(text)
    assert re.fullmatch(f"error: {pattern}\n", result.err), result.err
    facts = json.loads(ark(*args, "--json").out)["error"]
    assert list(facts) == ["what", "why", "fix", "kind"]
    assert facts["kind"] == "usage"
    assert ark(*args, "--json").err == ""


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (errors.UsageError, 2, "usage"),
        (errors.CheckpointError, 1, "checkpoint"),
        (errors.UnsupportedError, 1, "unsupported"),
        (errors.ArtifactError, 1, "artifact"),
        (errors.ResourceError, 1, "resource"),
        (errors.GateError, 3, "gate"),
        (errors.DeviceError, 4, "device"),
    ],
)
def test_kinds_and_exit_codes(
    capsys: pytest.CaptureFixture[str], error: type[errors.ArkError], code: int, kind: str
):
    caught = error("It broke", "It was old", "Buy one")
    assert failure.report(caught, json=False) == code
    assert capsys.readouterr().err == "error: It broke. It was old. Buy one.\n"
    assert failure.report(caught, json=True) == code
    assert json.loads(capsys.readouterr().out) == {
        "error": {"what": "It broke", "why": "It was old", "fix": "Buy one", "kind": kind}
    }


def test_a_foreign_message_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]):
    failure.report(errors.ArtifactError("Bad \x1b[2J name"), json=False)
    assert capsys.readouterr().err == "error: Bad ?[2J name.\n"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Makes `verify` hit a bug; returns where temporary files go."""

    def verify(file: Path, progress: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr("arkinfer.verify.checks.verify_artifact", verify)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("ARKINFER_DEBUG", raising=False)
    return tmp_path


def test_a_bug_is_one_sentence_and_its_traceback_is_kept(ark: Callable[..., Any], broken: Path):
    result = ark("verify", V1)
    assert result.code == 1
    (kept,) = broken.glob("arkinfer-*.txt")
    assert result.err == (
        "error: arkinfer broke down. KeyError: 'lost'. Please report it, with the file "
        f'"{kept}".\n'
    )
    text = kept.read_text()
    assert text.startswith(f"arkinfer {arkinfer.__version__}, Python ")
    assert "Traceback" in text
    assert "KeyError: 'lost'" in text


def test_a_bug_as_json(ark: Callable[..., Any], broken: Path):
    result = ark("verify", V1, "--json")
    assert result.code == 1
    assert result.err == ""
    assert json.loads(result.out)["error"]["kind"] == "internal"


def test_a_bug_with_debugging_on(
    ark: Callable[..., Any], broken: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ARKINFER_DEBUG", "1")
    result = ark("verify", V1)
    assert "Traceback" in result.err
    assert result.err.endswith("error: arkinfer broke down. KeyError: 'lost'.\n")
    assert list(broken.glob("arkinfer-*.txt")) == []


def test_nowhere_to_keep_the_traceback(
    ark: Callable[..., Any], broken: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tempfile.tempdir", str(broken / "none"))
    assert ark("verify", V1).err == (
        "error: arkinfer broke down. KeyError: 'lost'. Please report it, with what is shown when "
        "ARKINFER_DEBUG=1 is set.\n"
    )


def test_no_memory(ark: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    def verify(file: Path, progress: object) -> None:
        raise MemoryError

    monkeypatch.setattr("arkinfer.verify.checks.verify_artifact", verify)
    result = ark("verify", V1)
    assert result.err == (
        "error: There is not enough memory. Close other programs, or lower --context.\n"
    )


def test_ctrl_c_has_no_traceback(process: Start, model: Path):
    endless = process("bench", model, "--rounds", "1000000")
    time.sleep(2)
    assert endless.poll() is None
    endless.send_signal(signal.SIGINT)
    _, err = endless.communicate(timeout=30)
    assert endless.returncode == 130
    assert err.splitlines()[-1] == (
        b"stopped: arkinfer bench had not finished; no file was left half written."
    )
    assert b"Traceback" not in err


def test_a_reader_that_leaves_is_no_error(process: Start):
    running = process("inspect", V1, "--entries")
    running.stdout.close()
    running.stdout = None
    _, err = running.communicate(timeout=30)
    assert err == b""
    assert running.returncode == 1


def test_an_error_whose_reader_left_is_quiet_too(process: Start):
    running = process("inspect", "none.ark", "--json")
    running.stdout.close()
    running.stdout = None
    _, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (1, b"")


def test_a_question_that_nobody_answers(ark: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    def verify(file: Path, progress: object) -> None:
        raise EOFError

    monkeypatch.setattr("arkinfer.verify.checks.verify_artifact", verify)
    result = ark("verify", V1)
    assert result.code == 2
    assert result.err.endswith(
        "error: A question was left unanswered. Standard input ended, or the answer was no. "
        "Answer it, or give the option that answers it.\n"
    )


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_any_text_can_be_said_on_any_terminal(
    process: Start, environment: dict[str, str], encoding: str
):
    settings = {**environment, "PYTHONIOENCODING": encoding}
    running = process("inspect", b"caf\xc3\xa9-\xff.ark".decode(errors="surrogateescape"),
                      env=settings)  # fmt: skip
    _, err = running.communicate(timeout=30)
    assert err.startswith(b'error: There is no file "caf')
    assert running.returncode == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("arkinfer ", set(cli.COMMANDS)),
        ("arkinfer ve", {"verify"}),
        ("arkinfer verify --js", {"--json"}),
        ("arkinfer run --no", {"--no-think"}),
    ],
)
def test_shell_completion(environment: dict[str, str], words: str, expected: set[str]):
    settings = {
        "_ARKINFER_COMPLETE": "complete_bash", "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-m", "arkinfer"], capture_output=True, text=True, timeout=60,
        env={**environment, **settings}, check=False,
    )  # fmt: skip
    assert result.stderr == ""
    assert set(result.stdout.split()) >= expected
    if "ve" in words:
        assert "run" not in result.stdout.split()
