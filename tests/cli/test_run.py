"""`arkinfer run`: prompts, pipes, JSON, a chat on a terminal, Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import arkinfer
from arkinfer.cli.run import _CONTROLS
from tests.runtime.artifacts import TEMPLATE, write_artifact
from tests.runtime.bigram import BigramExecutor

Ark = Callable[..., Any]
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def expected(model: Path) -> Callable[..., str]:
    """The engine's own answer to a chat."""

    def answer(prompt: str, count: int, *, raw: bool = False, **options: Any) -> str:
        with arkinfer.load(model, executor=BigramExecutor()) as engine:
            ask = engine.generate if raw else engine.chat
            return ask(prompt, max_new_tokens=count, **options).read()

    return answer


def line(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"


def test_a_prompt_is_a_chat_turn(ark: Ark, model: Path, expected: Callable[..., str]):
    result = ark("run", model, "What is a list?", "--max-new-tokens", 12)
    assert (result.code, result.err) == (0, "")
    assert result.out == line(expected("What is a list?", 12))


def test_raw_continues_the_prompt(ark: Ark, model: Path, expected: Callable[..., str]):
    result = ark("run", model, "What is a list?", "--raw", "--max-new-tokens", 12)
    assert result.out == line(expected("What is a list?", 12, raw=True))


@pytest.mark.parametrize(
    ("options", "keywords"),
    [
        (["--temperature", "1.5", "--seed", "7"], {"temperature": 1.5, "seed": 7}),
        (["--temperature", "1", "--top-k", "3"], {"temperature": 1.0, "top_k": 3}),
        (["--temperature", "2", "--top-p", "0.4"], {"temperature": 2.0, "top_p": 0.4}),
        (["--temperature", "2", "--min-p", "0.5"], {"temperature": 2.0, "min_p": 0.5}),
        (["--repetition-penalty", "1.9"], {"repetition_penalty": 1.9}),
        (["--no-think"], {"thinking": False}),
        (["--think"], {"thinking": True}),
        (["--system", "Be kind."], {"system": "Be kind."}),
    ],
)
def test_options_reach_the_engine(
    ark: Ark, model: Path, expected: Callable[..., str], options: list[str],
    keywords: dict[str, Any],
):  # fmt: skip
    result = ark("run", model, "Why?", "--max-new-tokens", 20, *options)
    assert result.err == ""
    assert result.out == line(expected("Why?", 20, **keywords))


def test_defaults_come_from_the_model(ark: Ark, tmp_path: Path, site: Path):
    generation = {"temperature": 0.8, "top_p": 0.9}
    path = write_artifact(tmp_path / "s.ark", generation=generation)
    facts = json.loads(ark("run", path, "Why?", "--json", "--max-new-tokens", 3).out)
    assert facts["sampling"] == {
        "temperature": 0.8, "top_k": 0, "top_p": 0.9, "min_p": 0.0, "repetition_penalty": 1.0,
        "seed": 0,
    }  # fmt: skip
    facts = json.loads(
        ark("run", path, "Why?", "--json", "--temperature", 0, "--max-new-tokens", 3).out
    )
    assert facts["sampling"]["temperature"] == 0


def test_json_has_stable_keys(ark: Ark, model: Path, expected: Callable[..., str]):
    result = ark("run", model, "Why?", "--json", "--max-new-tokens", 9)
    facts = json.loads(result.out)
    assert list(facts) == [
        "path", "backend", "variant", "context", "text", "finish_reason", "prompt_tokens", "tokens",
        "sampling", "seconds", "prefill_tokens_per_second",
        "decode_tokens_per_second",
    ]  # fmt: skip
    assert list(facts["seconds"]) == ["load", "prefill", "decode", "process_start_to_first_text"]
    assert facts["text"] == expected("Why?", 9)
    assert (facts["tokens"], facts["finish_reason"]) == (9, "length")
    assert (facts["path"], facts["backend"]) == (str(model), "bigram")
    assert result.err == ""


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_standard_input(
    ark: Ark, model: Path, expected: Callable[..., str], monkeypatch: pytest.MonkeyPatch,
    ending: str,
):  # fmt: skip
    data = f"\ufeffWhat is\na list? é{ending}".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    result = ark("run", model, "--max-new-tokens", 5)
    assert result.out == line(expected("What is\na list? é", 5))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "There is no prompt. Standard input was empty. Give the prompt after the file."),
        (b" \n", "There is no prompt. Standard input was empty. Give the prompt after the file."),
        (b"\xff\xfe", "Standard input is not UTF-8 text. 'utf-8' codec can't decode byte 0xff in "
         "position 0: invalid start byte. Convert the prompt to UTF-8."),
    ],
)  # fmt: skip
def test_standard_input_without_a_prompt(
    ark: Ark, model: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, text: str
):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    result = ark("run", model)
    assert (result.code, result.out, result.err) == (2, "", f"error: {text}\n")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--raw", "--system", "x"], "--system cannot be combined with --raw. They work through "
         "the chat template, which --raw leaves out. Leave out one of them."),
        (["--raw", "--no-think"], "--think and --no-think cannot be combined with --raw. They "
         "work through the chat template, which --raw leaves out. Leave out one of them."),
        (["--max-new-tokens", "0"], "max_new_tokens cannot be 0. Give at least 1."),
        (["--top-p", "7"], "top_p cannot be 7.0. It must be above 0 and at most 1."),
        (["--seed", "-1"], "seed cannot be -1. It must be a whole number from 0 up."),
        (["--threads", "0"], "threads cannot be 0. Give at least 1."),
        (["--context", "999"], "The context cannot be 999 tokens. This artifact was built for at "
         "most 256. Give a number from 1 to 256, or build it for a longer context."),
        (["--backend", "tvm"], 'The artifact has no section for the backend "tvm". It was built '
         "for: bigram. Name one of these, or build it for that backend."),
    ],
)  # fmt: skip
def test_requests_that_cannot_be_met(ark: Ark, model: Path, options: list[str], text: str):
    result = ark("run", model, "Why?", *options)
    assert (result.code, result.out, result.err) == (2, "", f"error: {text}\n")


def test_a_prompt_longer_than_the_context(ark: Ark, model: Path):
    result = ark("run", model, "word " * 200, "--context", 50)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("error: The prompt has ")
    assert result.err.endswith(
        " tokens, but the context holds 50. It has to hold the prompt and at least one new token. "
        "Shorten the prompt, or load with a larger context: --context N, up to 256.\n"
    )
    facts = json.loads(ark("run", model, "word " * 200, "--context", 50, "--json").out)
    assert facts["error"]["kind"] == "usage"


def test_models_that_lack_something(ark: Ark, tmp_path: Path, site: Path):
    plain = write_artifact(tmp_path / "plain.ark", template=TEMPLATE)
    result = ark("run", plain, "Why?", "--think")
    assert result.code == 2
    assert result.err.startswith("error: This model has no thinking switch.")
    bare = write_artifact(tmp_path / "bare.ark", template=None)
    result = ark("run", bare, "Why?")
    assert result.code == 2
    assert result.err.startswith("error: This model has no chat template.")
    lacking = write_artifact(tmp_path / "chip.ark", requires={"missing-chip": ">=1"})
    result = ark("run", lacking, "Why?")
    assert (result.code, result.err) == (
        4, "error: This device has no such chip. The section needs it. Buy one.\n",
    )  # fmt: skip


def test_notes_on_standard_error(ark: Ark, model: Path):
    result = ark("run", model, "Why?", "--top-k", 5, "--max-new-tokens", 2)
    assert result.err == (
        "note: --top-k has no effect at temperature 0 (greedy); add --temperature 0.8\n"
    )
    result = ark("run", model, "Why?", "--context", 40)
    assert result.err == (
        "note: the answer ends here because the context of 40 tokens is full; --context N allows "
        "up to 256\n"
    )
    result = ark("run", model, "Why?", "--max-new-tokens", 4, "--stats")
    words = result.err.split()
    assert words[0] == "prompt:"
    assert "answer: 4 tokens," in result.err
    assert words.count("tok/s;") + words.count("tok/s") == 2


def test_a_file_in_small_pages_is_told(ark: Ark, model: Path, monkeypatch: pytest.MonkeyPatch):
    """Whether it is, `tests/artifact/test_pages.py` sees."""
    monkeypatch.setattr("arkinfer.artifact.pages.in_small_pages", lambda path: path == model)
    options = ("run", model, "Why?", "--max-new-tokens", 4)
    assert ark(*options, "--stats").err.splitlines()[1:] == [
        f"note: {model} is held in small pages, as files are that were just copied; "
        f'"arkinfer prepare {model}", while nothing runs it, makes decoding faster'
    ]
    assert ark(*options).err == ""


def test_the_time_to_the_first_text_counts_from_the_start_of_the_process(
    process: Start, model: Path
):
    start = time.monotonic()
    out, _ = process("run", model, "Why?", "--json", "--max-new-tokens", 1).communicate(timeout=60)
    whole = time.monotonic() - start
    seconds = json.loads(out)["seconds"]
    assert seconds["load"] < seconds["process_start_to_first_text"] < whole + 0.05


def test_the_answer_streams(process: Start, model: Path):
    """The first words are there while the process still runs."""
    running = process("run", model, "Why?", "--temperature", 1, bufsize=0)
    readable, _, _ = select.select([running.stdout], [], [], 30)
    assert readable
    first = running.stdout.read(1)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert first
    assert err == b"stopped: the answer is not complete.\n"


class Terminal:
    """A process whose terminal is ours."""

    def __init__(self, args: list[str], environment: dict[str, str]) -> None:
        pty = pytest.importorskip("pty")
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "arkinfer", *args], stdin=theirs, stdout=theirs, stderr=theirs,
            env=environment, start_new_session=True, preexec_fn=_take_terminal,
        )  # fmt: skip
        os.close(theirs)
        self.seen = ""

    def expect(self, text: str, seconds: float = 30) -> str:
        """Reads until `text` comes; what came before it since the last time."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            readable, _, _ = select.select([self._ours], [], [], max(0, end - time.monotonic()))
            assert readable, f"{text!r} did not come, but {self.seen!r}"
            try:
                data = os.read(self._ours, 4096)
            except OSError:  # how a terminal says that its other end is closed
                data = b""
            assert data, f"{text!r} did not come, but {self.seen!r}"
            self.seen += data.decode(errors="replace").replace("\r\n", "\n")
        before, _, self.seen = self.seen.partition(text)
        return before

    def rest(self) -> str:
        """All that comes until the process ends."""
        with suppress(OSError):  # how a terminal says that its other end is closed
            while data := os.read(self._ours, 4096):
                self.seen += data.decode(errors="replace").replace("\r\n", "\n")
        return self.seen

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def close(self) -> int:
        code = self.process.wait(30)
        os.close(self._ours)
        return code


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_a_chat_on_a_terminal(environment: dict[str, str], model: Path):
    chat = Terminal(["run", str(model), "--max-new-tokens", "6", "--stats"], environment)
    assert "bigram, 256 tokens of context." in chat.expect("> ")
    chat.type("What is a list?\n")
    first = chat.expect("> ")
    assert "answer: 6 tokens" in first
    assert "reused" not in first
    chat.type("And a tuple?\n")
    second = chat.expect("> ")
    assert "reused" in second  # the first turn is in the caches
    chat.type("/no_think\n")
    assert "thinking: off" in chat.expect("> ")
    chat.type("\n")
    chat.expect("> ")
    chat.type("word " * 120 + "\n")
    assert "but the context holds 256" in chat.expect("> ").replace("\n", " ")
    chat.type("/clear\n")
    chat.expect("> ")
    chat.type("/bye\n")
    assert chat.close() == 0


def test_ctrl_c_in_a_chat(environment: dict[str, str], tmp_path: Path, site: Path):
    path = write_artifact(tmp_path / "slow.ark", context=65536, tokens={"bos": 1, "stop": []})
    chat = Terminal(["run", str(path), "--temperature", "2"], environment)
    chat.expect("> ")
    chat.type("Why?\n")
    chat.expect("Why?\n")
    time.sleep(0.5)
    chat.type("\x03")
    chat.expect("\n> ")
    chat.type("/clear\n")
    chat.expect("> ")
    chat.type("\x04")
    assert chat.close() == 0

    chat = Terminal(["run", str(path)], environment)
    chat.expect("> ")
    time.sleep(0.5)  # Python loses a Ctrl-C that comes between its prompt and its waiting for input
    chat.type("\x03")
    assert chat.rest() in ("\n", "^C\n")
    assert chat.close() == 130


def test_options_that_do_not_chat(environment: dict[str, str], model: Path):
    for option in ("--raw", "--json"):
        chat = Terminal(["run", str(model), option], environment)
        chat.expect(f"{option} does not chat")
        assert chat.close() == 2


def test_control_characters_do_not_reach_a_terminal():
    assert "a\x1b[2Jb\tc\n\x9b👩‍👧".translate(_CONTROLS) == "a\ufffd[2Jb\tc\n\ufffd👩‍👧"
