"""Paired speed of arkinfer, the engines that are installed, and the machine itself.

    python -m benchmarks.harness --folder /tmp/compare --json compare.json

All run one seeded checkpoint, each in a process of its own, and take turns in short rounds, so that
what else the machine does meets all of them (`arkinfer.bench.turns`). A figure is the median over
rounds of the ratio of two speeds in one round. The first run makes all models in the folder: some
GB for the default shape. docs/performance.md tells how to read and repeat it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from arkinfer.bench.cases import Case, cases
from arkinfer.bench.compare import Rule
from arkinfer.bench.confidence import pairs_needed
from arkinfer.bench.process import Worker
from arkinfer.bench.turns import Heat, Turns, take_turns
from arkinfer.errors import ArkError, UsageError
from arkinfer.machine.environment import read_environment
from benchmarks import limits, ours, peers
from benchmarks.peers import llama_bench
from benchmarks.results import Contender, Results, Run, Weights, tables

PAUSE = 0.3
"""Seconds between two samples: the threads of an engine may spin for 0.1 before they sleep."""

LONG = 4096
"""From so many tokens on, a prompt is computed once in a launch, without one that warms up."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Entrant:
    """A contender with its model made: what starts its worker, given threads and capacity."""

    contender: Contender
    start: Callable[[int, int], Worker]


def main(arguments: list[str] | None = None) -> int:
    """Measures, and prints tables; the exit code."""
    given = _parser().parse_args(arguments)
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        rule: Rule | None = Rule(given.confidence / 100)
        found = measure(given, _say)
    except ArkError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted: nothing is saved", file=sys.stderr)
        return 130
    needed = pairs_needed(rule.alpha(len(found.runs[0].seconds)))
    if given.launches < needed:
        _say(f"\nIntervals at {given.confidence:g} % would need --launches {needed}.")
        rule = None
    for table in tables(found, rule):
        _say(f"\n{table.title}\n")
        for line in table.lines():
            _say(line)
    if given.json is not None:
        given.json.write_text(json.dumps(found.to_json(), indent=1) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.harness",
                                     description=__doc__.splitlines()[0])  # fmt: skip
    add = parser.add_argument
    add("--folder", type=Path, default=Path("compare"), help="holds the models")
    add("--shape", default="minicpm4-0.5b", help="a preset's name")
    add("--backends", type=_words, default=["onnxruntime"], help="of ours; ratios are the first's")
    add("--peers", type=_words, help=f"of {', '.join(peers.names())}, or none; "
        "default: those that are installed")  # fmt: skip
    add("--llama-bench", type=Path, metavar="PATH", help="a program of llama.cpp or of a fork")
    add("--gguf-types", type=_words, default=["Q4_0"], help="that it runs, e.g. Q4_0_R8,IQ2_BN_R4")
    add("--ternary", action="store_true", help="ternary weights, too")
    add("--no-limits", action="store_true", help="without the machine's own limits")
    add("--lengths", type=_numbers, default=[512], help="of prompts")
    add("--depths", type=_numbers, default=[0, 8192], help="of decoding")
    add("--tokens", type=int, default=16, help="decoded in one sample")
    add("--steps", type=_numbers, default=[], help="tokens of small steps of ours, e.g. 4,8,32")
    add("--threads", type=_numbers, default=[2], help="of each, e.g. 1,2: one run after the other")
    add("--launches", type=int, default=10, help="fresh sets of processes")
    add("--rounds", type=int, help="in a launch; default: as many as fit 0.6 s, at least 3")
    add("--confidence", type=float, default=95.0, help="per cent, of the intervals")
    add("--json", type=Path, metavar="FILE", help="write all samples")
    return parser


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _numbers(text: str) -> list[int]:
    return [int(word) for word in _words(text)]


def measure(given: argparse.Namespace, say: Say) -> Results:
    """Runs everybody against everybody, once for each number of threads.

    Raises:
        UsageError: an unknown peer, one that was asked for and cannot run, or impossible numbers.
    """
    wanted = cases(given.lengths, given.depths, given.tokens, ours.CONTEXT)
    rounds = [] if given.rounds is None else [given.rounds]
    named = {"launches": [given.launches], "rounds": rounds, "threads": given.threads}
    for name, numbers in {**named, "tokens in a step": given.steps}.items():
        for number in numbers:
            if number < 1:
                raise UsageError(f"There cannot be {number} {name}", fix="Give at least 1")
    before = read_environment()
    skipped: list[str] = []

    def skip(line: str) -> None:
        say(line)
        skipped.append(line)

    entrants = list(_entrants(given, skip))
    settings = {k: v for k, v in vars(given).items() if k not in ("json", "folder", "llama_bench")}
    found = Results(settings, {"before": before.to_json()}, [], skipped)
    for threads in given.threads:
        capacity = max(case.depth + case.tokens for case in wanted) + max([0, *given.steps])
        capacity = max(capacity, peers.PROBE)
        able = [e for e in entrants if _rehearse(e, threads, capacity, given, skip)]
        heats = heats_of([e.contender for e in able], wanted, given.steps, given.rounds)
        for entrant in able:
            if entrant.contender not in found.contenders:
                say(f"{entrant.contender.name}: {entrant.contender.how}")
                found.contenders.append(entrant.contender)
        start = {e.contender.name: partial(e.start, threads, capacity) for e in able}
        turns = take_turns(start, heats, launches=given.launches, pause=PAUSE,
                           progress=_progress(say, threads))  # fmt: skip
        found.runs.append(run_of(turns, threads, [e.contender for e in able]))
    found.environment["after"] = read_environment().to_json()
    return found


def _entrants(given: argparse.Namespace, skip: Say) -> Sequence[Entrant]:
    """Everybody who shall take part, models made."""
    forms: list[Weights] = ["int4", "ternary"] if given.ternary else ["int4"]
    folder = given.folder / given.shape
    chosen = peers.chosen(given.peers, skip)
    if given.llama_bench is not None:
        python = peers.python_with(llama_bench.PACKAGE) or Path(sys.executable)
        chosen += llama_bench.peers_of(given.llama_bench, given.gguf_types, python)
    made: list[Entrant] = []
    for weights in forms:
        source = ours.checkpoint(given.shape, weights, folder)
        suffix = "" if weights == "int4" else f"-{weights}"
        for backend in given.backends:
            path = ours.prepare(source, folder, backend, weights)
            contender = Contender(f"arkinfer-{backend}{suffix}", "ours", weights, ours.HOW[weights])
            made.append(Entrant(contender, partial(_start_ours, path, backend)))
        if not given.no_limits:
            contender = Contender(f"limit{suffix}", "limit", weights, limits.HOW)
            made.append(Entrant(contender, partial(_start_limit, source, weights)))
        for peer in chosen:
            if peer.form.weights == weights or (peer.form.weights, weights) == ("bf16", "int4"):
                contender = Contender(peer.name, "peer", peer.form.weights, peer.form.how)
                try:
                    model = peer.prepare(source, folder)
                except ArkError as error:
                    _left_out(contender, error, given, skip)
                    continue
                made.append(Entrant(contender, partial(_start_peer, peer, model)))
    return made


def _start_ours(path: Path, backend: str, threads: int, capacity: int) -> Worker:
    return Worker("arkinfer", ours.command(path, backend, threads, capacity))


def _start_limit(source: Path, weights: Weights, threads: int, capacity: int) -> Worker:
    return Worker("the limits", limits.command(source, weights, threads, capacity))


def _start_peer(peer: peers.Peer, model: Path, threads: int, capacity: int) -> Worker:
    return Worker(peer.name, peer.command(model, threads, capacity), peers.environment())


def _rehearse(
    entrant: Entrant, threads: int, capacity: int, given: argparse.Namespace, skip: Say
) -> bool:
    """Whether it starts: a peer that does not must not end a long run."""
    try:
        with entrant.start(threads, capacity) as worker:
            worker.ready()
    except ArkError as error:
        _left_out(entrant.contender, error, given, skip)
        return False
    return True


def _left_out(contender: Contender, error: ArkError, given: argparse.Namespace, skip: Say) -> None:
    """Says so; raises the error where it was asked for by name, or is ours."""
    named = contender.name in (given.peers or ()) or contender.name.startswith(llama_bench.NAME)
    if contender.role == "ours" or named:
        raise error
    skip(f"{contender.name} is skipped: {error}")


def heats_of(
    contenders: Sequence[Contender], wanted: Sequence[Case], steps: Sequence[int],
    rounds: int | None,
) -> list[Heat]:  # fmt: skip
    """What is measured together: a case by all; small steps of ours beside single tokens.

    Long prompts come before decoding at their depth, which then need not be reached again.
    """
    heats: list[Heat] = []
    for case in sorted(wanted, key=lambda c: (max(c.depth, c.tokens), c.kind == "decode")):
        entries = [(c.name, case) for c in contenders]
        if case.kind == "decode":
            entries += [
                (c.name, Case("step", case.depth, count))
                for c in contenders
                for count in steps
                if c.role == "ours"
            ]
        long = case.kind == "prefill" and case.tokens >= LONG
        heats.append(Heat(tuple(entries), 1 if long else rounds, warm=not long))
    return heats


def run_of(turns: Turns, threads: int, contenders: Sequence[Contender]) -> Run:
    """What the harness keeps of turns."""
    run = Run(threads)
    for launches in turns.rounds:
        for name, case in launches[0][0]:
            seconds = [[found[name, case] for found in rounds] for rounds in launches]
            run.seconds.setdefault(case, {})[name] = seconds
    models = {c.name: "ternary" if c.weights == "ternary" else "dense" for c in contenders}
    shown: dict[str, list[float]] = {}
    for contender in contenders:
        name, facts = contender.name, turns.ready[0][contender.name]
        logits = facts.get("logits")
        if contender.role == "ours":
            shown.setdefault(models[name], logits)
        run.facts[name] = {
            "load_seconds": median(ready[name]["load_seconds"] for ready in turns.ready),
            "first_token_seconds": median(r[name]["first_token_seconds"] for r in turns.ready),
            "rss": int(median(ready[name]["rss"]["now"] for ready in turns.ready)),
            "peak_rss": max(memory[name] for memory in turns.memory),
            "filled": facts.get("filled", ""),
            "correlation": correlation(shown.get(models[name]), logits),
            **{key: facts[key] for key in ("work", "dot") if key in facts},
        }
    return run


def correlation(a: list[float] | None, b: list[float] | None) -> float | None:
    """Of two engines' logits after the same few tokens; None: one shows none."""
    return None if a is None or b is None else float(np.corrcoef(a, b)[0, 1])


def _progress(say: Say, threads: int) -> Callable[[int, int], Any]:
    plural = "s" * (threads != 1)
    return lambda done, all_: say(f"  {done} of {all_} heats done, {threads} thread{plural}")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
