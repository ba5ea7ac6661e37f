"""Workers in processes of their own: what they measure, and how they end."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from arkinfer.bench.cases import Case
from arkinfer.bench.compare import Rule, observe
from arkinfer.bench.measure import measure, summary
from arkinfer.bench.process import Worker
from arkinfer.bench.subject import subject
from arkinfer.errors import InternalError, ResourceError, UsageError

CASES = [Case("prefill", 0, 16), Case("decode", 8, 4)]


def script(text: str) -> Worker:
    return Worker("it", [sys.executable, "-c", text])


def test_a_run(model: Path):
    seen: list[tuple[int, int]] = []
    found = measure(
        subject(str(model)), CASES, launches=2, rounds=3, progress=lambda *n: seen.append(n)
    )
    assert [list(map(len, launches)) for launches in found.seconds.values()] == [[3, 3]] * 2
    assert all(s > 0 for launches in found.seconds.values() for r in launches for s in r)
    assert seen[-1] == (224, 224)  # 2 launches of 3 + 1 rounds of 16 + 12 tokens
    facts = found.to_json()
    assert (facts["launches"], facts["rounds"], facts["first_token"]["tokens"]) == (2, 3, 32)
    for first, load in zip(facts["first_token"]["seconds"], facts["load"]["seconds"], strict=True):
        assert 0 < load < first
    assert 0 < facts["rss"]["before"] <= facts["rss"]["loaded"] <= facts["rss"]["peak"]


def test_two_in_turns(model: Path):
    chosen = subject(str(model))
    start = partial(Worker, "m", chosen.command(16, 0))
    found = observe({"a": start, "b": start}, CASES, launches=2, rounds=4)
    assert [list(map(len, launches)) for launches in found.pairs.values()] == [[4, 4]] * 2
    facts = found.to_json(found.differences(Rule(0.5)))
    assert facts["launches"] == 2
    assert facts["processes"]["a"]["peak_rss"] > 0
    assert [len(case["launch_ratios"]) for case in facts["cases"]] == [2, 2]


def test_errors_of_a_worker_are_errors_here(model: Path):
    gone = replace(subject(str(model)), path=model.with_name("gone.ark"))
    with Worker("m", gone.command(16, 0)) as worker, pytest.raises(UsageError) as caught:
        worker.ready()
    assert str(caught.value).startswith(f'There is no file "{gone.path}".')


def test_what_libraries_print_does_no_harm(model: Path, capfd: pytest.CaptureFixture[str]):
    text = (
        "import os\nfrom arkinfer.bench.worker import serve\n"
        "def open_engine():\n    os.write(1, b'hello from C'); print('hello'); return None, {}\n"
        "serve(open_engine)"
    )
    with script(text) as worker:
        assert worker.ready()["rss"]["peak"] > 0
        assert worker.memory()["now"] > 0
    out, err = capfd.readouterr()
    assert out == ""
    assert "hello from C" in err


def test_a_worker_that_is_killed():
    worker = script("import time; time.sleep(60)")
    os.kill(worker.process.pid, signal.SIGKILL)
    with pytest.raises(ResourceError) as caught:
        worker.ready()
    assert str(caught.value) == (
        "The process that ran it was killed. Most often the system does so when memory runs out. "
        "Close other programs, or give shorter lengths and depths."
    )


@pytest.mark.parametrize("text", ["raise SystemExit(7)", "print('{\"rea', end='')"])
def test_a_worker_that_ends_by_itself(text: str):
    with pytest.raises(InternalError, match=r"The process that ran it ended with code [07]\."):
        script(text).ready()


def test_no_process_is_left_behind(model: Path):
    chosen = subject(str(model))
    workers: list[Worker] = []

    def start() -> Worker:
        workers.append(Worker("m", chosen.command(16, 0)))
        return workers[-1]

    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        observe({"a": start, "b": start}, CASES, launches=1, rounds=1, progress=interrupt)
    assert [worker.process.poll() is None for worker in workers] == [False, False]


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ({"launches": 0, "rounds": 1}, "There cannot be 0 launches. Give at least 1."),
        ({"launches": 1, "rounds": 0}, "There cannot be 0 rounds. Give at least 1."),
    ],
)
def test_nothing_to_do(model: Path, numbers: dict[str, int], text: str):
    with pytest.raises(UsageError) as caught:
        measure(subject(str(model)), CASES, **numbers)
    assert str(caught.value) == text


def test_a_summary():
    assert summary([4.0, 1.0, 3.0, 2.0, 5.0]) == {
        "median": 3.0, "lower_quartile": 2.0, "upper_quartile": 4.0, "min": 1.0, "max": 5.0,
    }  # fmt: skip
    assert set(summary([2.0]).values()) == {2.0}
