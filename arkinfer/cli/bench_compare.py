"""`arkinfer bench compare`: is B as fast as A? Two files in turns, or two saved runs."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from arkinfer.cli.bench_output import (
    busy,
    check_places,
    during,
    numbers,
    print_json,
    print_machine,
    save,
)
from arkinfer.cli.options import Json, Threads
from arkinfer.cli.preparing import prepare_first
from arkinfer.cli.progress import Progress
from arkinfer.errors import UsageError

if TYPE_CHECKING:
    from arkinfer.bench.compare import Difference, Rule
    from arkinfer.bench.subject import Subject

_GATE = 3  # the exit code of a gate that was not met
_LENGTH, _TOKENS = 128, 16  # the defaults: one prefill, one decode at depth 0


def compare(
    a: Annotated[str, typer.Argument(help="An .ark file, demo, or a saved run.", metavar="A")],
    b: Annotated[str, typer.Argument(help="What to compare with it, of that kind.", metavar="B")],
    lengths: Annotated[
        str | None, typer.Option(help="Prompt lengths to prefill; default: 128.")
    ] = None,
    depths: Annotated[
        str | None, typer.Option(help="Cache depths to decode at; default: 0.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Tokens to decode at each depth.")] = _TOKENS,
    launches: Annotated[
        int, typer.Option(help="Fresh pairs of processes; more see smaller differences.")
    ] = 10,
    rounds: Annotated[
        int | None, typer.Option(help="Rounds in each; default: half a second, 3 to 20.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the prompt, and of whose turn it is.")] = 0,
    threads: Threads = None,
    threads_a: Annotated[int | None, typer.Option(help="Those of A alone.")] = None,
    threads_b: Annotated[int | None, typer.Option(help="Those of B alone.")] = None,
    backend_a: Annotated[str | None, typer.Option(help="Whose section of A to run.")] = None,
    backend_b: Annotated[str | None, typer.Option(help="Whose section of B to run.")] = None,
    confidence: Annotated[float, typer.Option(help="In per cent, over all cases together.")] = 99.0,
    min_effect: Annotated[
        float, typer.Option(help="Per cent; smaller differences are not called.")
    ] = 1.0,
    max_slowdown: Annotated[
        float | None, typer.Option(help="Exit with 3 if B is surely slower by more per cent.")
    ] = None,
    allow_unlike: Annotated[
        bool, typer.Option("--allow-unlike", help="Compare saved runs of unlike machines.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Save the JSON here.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with charts here.")] = None,
    json: Json = False,
) -> None:
    """Say with confidence whether B is slower than A.

    Two .ark files run in turns, in fresh processes. Two runs that `arkinfer bench -o` saved are
    compared if their machines were alike.

    Example: arkinfer bench compare old.ark new.ark --max-slowdown 5
    """
    from arkinfer.bench.compare import Rule, verdict
    from arkinfer.bench.subject import subject

    check_places(output, html)
    rule = Rule(confidence / 100, min_effect / 100)
    if _is_saved(a, b):
        facts, found = _saved(a, b, rule, allow_unlike)
    else:
        pair = (
            subject(a, backend_a, threads_a if threads_a is not None else threads),
            subject(b, backend_b, threads_b if threads_b is not None else threads),
        )
        for one in pair:
            prepare_first(one.name, one.backend)
        facts, found = _live(pair, rule, lengths, depths, tokens, launches, rounds, seed)
    facts = {"verdict": verdict(found), **facts}
    met = True
    if max_slowdown is not None:
        met = not any(d.slower_than(max_slowdown / 100) for d in found)
        facts["gate"] = {"max_slowdown": max_slowdown, "met": met}
    save(facts, output, html, page="compare")
    if json:
        print_json(facts)
    else:
        _print(facts)
    if not met:
        print(f"error: B is slower than A by more than {max_slowdown:g} %.", file=sys.stderr)
        raise typer.Exit(_GATE)


def _live(
    pair: tuple[Subject, Subject],
    rule: Rule,
    lengths: str | None,
    depths: str | None,
    tokens: int,
    launches: int,
    rounds: int | None,
    seed: int,
) -> tuple[dict[str, Any], list[Difference]]:
    """Runs two artifacts in turns: the facts for JSON, and what they say."""
    from arkinfer.bench.cases import cases
    from arkinfer.bench.compare import check_launches, observe
    from arkinfer.bench.process import Worker
    from arkinfer.machine.environment import read_environment

    most = min(subject.context for subject in pair)
    wanted = cases(
        numbers("--lengths", lengths) or [min(_LENGTH, most)],
        numbers("--depths", depths) or [0],
        tokens,
        most,
    )
    check_launches(launches, len(wanted), rule)
    if rounds is not None and rounds < 1:
        raise UsageError(f"There cannot be {rounds} rounds", fix="Give at least 1")
    room = max(case.depth + case.tokens for case in wanted)
    a, b = (partial(Worker, subject.name, subject.command(room, seed)) for subject in pair)
    before = read_environment()
    progress = Progress("Comparing")
    try:
        observed = observe(
            {"a": a, "b": b}, wanted, launches=launches, rounds=rounds, seed=seed, progress=progress
        )
    finally:
        progress.end()
    machine = during(before, read_environment())
    found = observed.differences(rule)
    facts = {
        **_sides([subject.to_json() for subject in pair], rule),
        **observed.to_json(found),
        "notes": [*machine["environment"]["disturbed"], *busy(before)],
        **machine,
    }
    return facts, found


def _saved(
    a: str, b: str, rule: Rule, allow_unlike: bool
) -> tuple[dict[str, Any], list[Difference]]:
    """Compares two saved runs: the facts for JSON, and what they say."""
    from arkinfer.bench.saved import compare_saved, read_saved, too_few, unlike, worth_noting

    first, second = read_saved(a), read_saved(b)
    different = unlike(first, second)
    if different and not allow_unlike:
        raise UsageError(
            "The two runs cannot be compared, since their machines were not alike",
            "; ".join(different),
            "Measure both in one state of one machine, or say --allow-unlike",
        )
    found = compare_saved(first, second, rule)
    notes = [f"not alike: {text}" for text in different] + worth_noting(first, second)
    if few := too_few(first, second, found):
        notes.insert(0, few)
    facts = {
        **_sides([first.facts, second.facts], rule),
        "launches": None,
        "cases": [difference.to_json() for difference in found],
        "notes": notes,
        "environment": {"a": first.before.to_json(), "b": second.before.to_json()},
    }
    return facts, found


def _sides(sides: list[dict[str, Any]], rule: Rule) -> dict[str, Any]:
    return {
        "a": sides[0], "b": sides[1],
        "confidence": rule.confidence * 100, "min_effect": rule.least * 100,
    }  # fmt: skip


def _is_saved(*paths: str) -> bool:
    """Whether the two are saved runs.

    Raises:
        UsageError: one is, and the other one is not.
    """
    kinds = [_begins_as_json(path) for path in paths]
    if kinds[0] != kinds[1]:
        raise UsageError(
            f'"{paths[0]}" and "{paths[1]}" cannot be compared',
            "One is a saved run, the other one is to be run",
            "Give two .ark files, or two saved runs",
        )
    return kinds[0]


def _begins_as_json(path: str) -> bool:
    try:
        with open(path, "rb") as stream:
            return stream.read(64).lstrip()[:1] == b"{"
    except OSError:
        return False  # "demo", or a mistake that reading an artifact explains


def _print(facts: dict[str, Any]) -> None:
    from arkinfer.bench.compare import percent
    from arkinfer.cli.table import print_table

    for side in ("a", "b"):
        threads = facts[side]["threads"] or "as the backend likes"
        print(f"{side.upper()}       {facts[side]['path']}, {facts[side]['backend']}, "
              f"threads: {threads}")  # fmt: skip
    if "before" in facts["environment"]:
        print_machine(facts["environment"])
    for line in facts["notes"]:
        print(f"note    {line}")

    def share(value: float | None) -> str:
        return "unknown" if value is None else f"{percent(100 * value)} %"

    rows = [
        (
            case["kind"], f"{case['tokens']:,}", f"{case['depth']:,}",
            f"{case['a']:,.1f}", f"{case['b']:,.1f}", share(case["speed"]["middle"]),
            share(case["speed"]["low"]), share(case["speed"]["high"]), case["verdict"],
        )
        for case in facts["cases"]
    ]  # fmt: skip
    header = ("", "tokens", "depth", "A tok/s", "B tok/s", "B of A", "at least", "at most", "B is")
    print_table(header, rows, left=1)
    print(f"\n{facts['verdict']}")
