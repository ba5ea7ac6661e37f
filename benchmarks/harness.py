"""Paired speed of arkinfer and the engines that are installed, on one seeded checkpoint.

    python -m benchmarks.harness --folder /tmp/compare

Each engine runs in a process of its own; ours and a peer take turns in short rounds, and what else
the machine does meets both (`arkinfer.bench.compare`). A figure is the median over rounds of the
ratio of the two speeds in one round, with its quartiles, and an interval that holds with the
confidence asked for. The first run makes all models in the folder: 2 GB for the default shape.
docs/performance.md tells how to read and repeat it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles
from typing import Any

import numpy as np

from arkinfer.bench.cases import Case, cases
from arkinfer.bench.compare import Difference, Observed, Rule, check_launches, observe
from arkinfer.bench.process import Worker
from arkinfer.errors import ArkError, UsageError
from arkinfer.machine.environment import read_environment
from benchmarks import ours, peers

PAUSE = 0.3
"""Seconds between two samples: the threads of an engine may spin for 0.1 before they sleep."""

ALIKE, RELATED = 0.9, 0.2
"""Correlations of logits: from the first on, two engines run one model; below the second, they do
not; between them, one of them rounds so coarsely that its answers are hardly the model's."""


def main(arguments: list[str] | None = None) -> int:
    """Measures, and prints a table; the exit code."""
    given = _parser().parse_args(arguments)
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        found = measure(given, _say)
    except ArkError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.harness",
                                     description=__doc__.splitlines()[0])  # fmt: skip
    parser.add_argument("--folder", type=Path, default=Path("compare"), help="holds the models")
    parser.add_argument("--shape", default="minicpm4-0.5b", help="a preset's name")
    parser.add_argument("--backends", type=_words, default=["onnxruntime"], help="of ours")
    parser.add_argument("--peers", type=_words, help=f"of {', '.join(peers.names())}; "
                        "default: those that are installed")  # fmt: skip
    parser.add_argument("--lengths", type=_numbers, default=[512], help="prompts")
    parser.add_argument("--depths", type=_numbers, default=[0, 8192], help="of decoding")
    parser.add_argument("--tokens", type=int, default=16, help="decoded in one sample")
    parser.add_argument("--launches", type=int, default=10, help="fresh pairs of processes")
    parser.add_argument("--rounds", type=int, help="in a launch; default: as many as fit 0.6 s")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--confidence", type=float, default=95.0, help="per cent")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples")
    return parser


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _numbers(text: str) -> list[int]:
    return [int(word) for word in _words(text)]


def measure(given: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Runs every backend of ours against every peer.

    Returns:
        Everything as plain values: the machine, and a comparison for each pair.

    Raises:
        UsageError: an unknown peer, one that is not installed, or numbers that cannot be.
    """
    wanted = cases(given.lengths, given.depths, given.tokens, 1 << 30)
    rule = Rule(given.confidence / 100)
    check_launches(given.launches, len(wanted), rule)
    rivals = _rivals(given.peers)
    given.folder.mkdir(parents=True, exist_ok=True)
    source = ours.checkpoint(given.shape, given.folder)
    before = read_environment()
    comparisons: list[dict[str, Any]] = []
    for backend in given.backends:
        artifact = ours.prepare(source, given.folder, backend)
        for rival in rivals:
            module = peers.peer(rival)
            try:
                model = module.prepare(source, given.folder)
            except ArkError as error:
                if given.peers:  # it was asked for by name
                    raise
                say(f"\n{rival} is left out: {error}")
                continue
            say(f"\narkinfer ({backend}, {ours.HOW})\nand {rival} ({module.HOW})")
            observed = _pair(given, wanted, (backend, artifact), (rival, model))
            found = observed.differences(rule)
            for line in table(observed, found, rival):
                say(line)
            facts = observed.to_json(found)
            comparisons.append({"backend": backend, "peer": rival, **facts,
                                "correlation": correlation(observed)})  # fmt: skip
    environment = {"before": before.to_json(), "after": read_environment().to_json()}
    settings = {k: v for k, v in vars(given).items() if k not in ("json", "folder")}
    return {"settings": settings, "environment": environment, "comparisons": comparisons}


def _rivals(asked: list[str] | None) -> list[str]:
    """The peers that were asked for, or all that are installed."""
    known = peers.names()
    for name in asked or []:
        if name not in known:
            raise UsageError(f'There is no peer "{name}"', fix=f"Known: {', '.join(known)}")
        if not peers.is_installed(name):
            package = peers.peer(name).PACKAGE.replace("_", "-")
            raise UsageError(f'The peer "{name}" cannot run', f'"{package}" is not installed',
                             f"Install it: pip install {package}")  # fmt: skip
    found = asked or [name for name in known if peers.is_installed(name)]
    if not found:
        raise UsageError("There is nothing to compare with", "No peer is installed",
                         f"Install one of {', '.join(known)}")  # fmt: skip
    return found


def _pair(
    given: argparse.Namespace, wanted: list[Case], us: tuple[str, Path], them: tuple[str, Path]
) -> Observed:
    """Ours (A) and a peer (B) in turns."""
    capacity = max(max(case.depth + case.tokens for case in wanted), peers.PROBE)
    our_command = ours.command(us[1], us[0], given.threads, capacity, 0)
    their_command = peers.command(them[0], them[1], given.threads, capacity, 0)
    return observe(
        {
            "a": lambda: Worker("arkinfer", our_command),
            "b": lambda: Worker(them[0], their_command),
        },
        wanted,
        launches=given.launches,
        rounds=given.rounds,
        pause=PAUSE,
    )


def table(observed: Observed, found: list[Difference], peer: str) -> list[str]:
    """Lines for people: speeds, the ratio of ours to the peer's, memory and first token."""
    width = max(len("first token"), *(len(each.case.name) for each in found))
    head = f"{'':{width}}  {'arkinfer':>10}  {peer:>10}  {'ratio':>6}  {'quartiles':>13}  interval"
    lines = [head]
    for each in found:
        low, middle, high = ratios(observed, each.case)
        ends = sorted((1 / each.speed.low if each.speed.low else np.inf, 1 / each.speed.high))
        lines.append(
            f"{each.case.name:{width}}  {each.a:10,.1f}  {each.b:10,.1f}  {middle:6.2f}  "
            f"{low:5.2f} … {high:5.2f}  {ends[0]:.2f} … {ends[1]:.2f} "
            f"at {100 * each.rule.confidence:g} %"
        )
    first = [sorted(r[i]["first_token_seconds"] for r in observed.ready) for i in (0, 1)]
    a, b = (values[len(values) // 2] for values in first)
    lines.append(f"{'first token':{width}}  {a:9.2f}s  {b:9.2f}s  {b / a:6.2f}")
    a, b = (max(pair[i] for pair in observed.memory) / (1 << 20) for i in (0, 1))
    lines.append(f"{'peak MiB':{width}}  {a:10,.0f}  {b:10,.0f}  {b / a:6.2f}")
    alike = correlation(observed)
    if alike is None:
        lines.append("whether both run the same model is not known: the peer shows no logits")
    else:
        same = "one model" if alike >= ALIKE else "one model, coarsely rounded by one of them"
        if alike < RELATED:
            same = "NOT the same model, so that the figures mean nothing"
        lines.append(f"logits correlate by {alike:.3f}: {same}")
    return lines


def ratios(observed: Observed, case: Case) -> tuple[float, float, float]:
    """Quartiles over all rounds of our speed divided by the peer's."""
    found = [b / a for launch in observed.pairs[case] for a, b in launch]
    low, middle, high = quantiles(found, n=4) if len(found) > 1 else found * 3
    return low, middle, high


def correlation(observed: Observed) -> float | None:
    """Of both engines' logits after the same few tokens; None: one shows none."""
    a, b = (facts.get("logits") for facts in observed.ready[0])
    return None if a is None or b is None else float(np.corrcoef(a, b)[0, 1])


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
