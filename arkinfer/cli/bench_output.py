"""What `bench` and `bench compare` share: their lists of numbers, their machine, their files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from arkinfer.machine.environment import Environment


def numbers(option: str, text: str | None) -> list[int]:
    """The numbers of a comma-separated list; [] when the option was left out."""
    if text is None:
        return []
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        from arkinfer.errors import UsageError

        raise UsageError(
            f'{option} cannot be "{text}"', "", "Give whole numbers with commas: 128,512"
        ) from None


def during(before: Environment, after: Environment) -> dict[str, Any]:
    """The machine around a run, as JSON has it."""
    from arkinfer.machine.environment import disturbed

    return {
        "environment": {
            "before": before.to_json(),
            "after": after.to_json(),
            "disturbed": disturbed(before, after),
        }
    }


def busy(before: Environment) -> list[str]:
    """A note if other programs kept the machine busy when a run began."""
    cpus = len(before.affinity or ()) or before.logical_cores
    if before.load is None or not cpus or before.load < max(0.5, cpus / 4):
        return []
    return [f"the machine was busy before: load {before.load:.1f} on {cpus} CPUs"]


def print_machine(facts: dict[str, Any]) -> None:
    """A line of what the machine is, and one for each thing that slowed it down."""
    from arkinfer.machine.environment import Environment

    shown = dict(Environment.from_json(facts["before"]).rows())
    names = ("CPU", "CPUs allowed", "governor", "power mode", "load")
    parts = [f"{name} {shown[name]}" for name in names if shown[name] is not None]
    missing = [name for name in ("governor", "throttle events") if shown[name] is None]
    text = f"; not measured: {', '.join(missing)}" if missing else ""
    print(f"machine {', '.join(parts).removeprefix('CPU ')}{text}")
    for line in facts["disturbed"]:
        print(f"note    {line}")


def check_places(*paths: Path | None) -> None:
    """Raises UsageError before the work if a result could not be written after it."""
    from arkinfer.report import check_place

    for path in paths:
        if path is not None:
            check_place(path)


def save(
    facts: dict[str, Any],
    output: Path | None,
    html: Path | None,
    *,
    page: Literal["run", "compare"],
) -> None:
    """Writes the JSON and the page, those that are wanted."""
    from json import dumps

    from arkinfer.report import write_page, write_text

    if output is not None:
        write_text(output, dumps(facts, indent=2) + "\n")
    if html is not None:
        from arkinfer.bench.page import compare_page, run_page

        write_page(html, (run_page if page == "run" else compare_page)(facts))


def print_json(facts: dict[str, Any]) -> None:
    from json import dumps

    print(dumps(facts, indent=2))
