"""`python -m fuzz [READER …]`: coverage-guided fuzzing of each reader, and a table at the end.

Inputs that break a reader are kept under the output folder; `--input FILE` runs one again. The
corpus is kept there, too, so that the next run begins where this one ended.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fuzz.targets import load, names

ROOT = Path(__file__).parents[1]
SLOWEST = 10
"""Seconds that one input may take."""
MEMORY = 1024
"""MiB that the process may take: interpreter, numpy, coverage counters and corpus."""

_STATUS = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)/")
_STATISTIC = re.compile(r"^stat::(\w+):\s+(\d+)$", re.MULTILINE)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("reader", nargs="*", help=f"of {', '.join(names())}; none: all")
    parser.add_argument("--seconds", type=int, default=600, help="for each reader")
    parser.add_argument("--jobs", type=int, default=1, help="readers at a time")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "fuzz")
    parser.add_argument("--input", type=Path, help="give this file to the reader once, and end")
    options = parser.parse_args()
    readers: list[str] = options.reader or names()
    if unknown := set(readers) - set(names()):
        parser.error(f"no reader {', '.join(sorted(unknown))}; there are {', '.join(names())}")
    if options.input is not None:
        for reader in readers:
            load(reader).one(options.input.read_bytes())
        return 0
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda r: run(r, options.seconds, options.output), readers))
    print(table(results))
    return 1 if any(result["broken"] for result in results) else 0


def run(reader: str, seconds: int, output: Path) -> dict[str, Any]:
    """Fuzzes one reader; what came of it, which is also written to `<output>/<reader>.json`."""
    corpus, broken = output / "corpus" / reader, output / "broken" / reader
    for folder in (corpus, broken):
        folder.mkdir(parents=True, exist_ok=True)
    before = set(broken.iterdir())
    target = load(reader)
    for seed in [*target.seeds(), *regressions(reader)]:
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    arguments = [
        f"-max_total_time={seconds}", f"-timeout={SLOWEST}", f"-rss_limit_mb={MEMORY}",
        f"-max_len={getattr(target, 'LENGTH', 4096)}", "-print_final_stats=1",
        f"-artifact_prefix={broken}/", f"-dict={_dictionary(reader, output)}", "-seed=1",
    ]  # fmt: skip
    log = output / f"{reader}.log"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'backends'}"}
    print(f"{reader}: {seconds} s, log in {log}", flush=True)
    with log.open("wb") as stream:
        ended = subprocess.run(
            [sys.executable, "-m", "fuzz.child", reader, *arguments, str(corpus)],
            cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
        )  # fmt: skip
    result = {
        "reader": reader,
        "seconds": seconds,
        "exit": ended.returncode,
        "broken": sorted(str(file) for file in set(broken.iterdir()) - before),
        **_figures(log.read_text("utf-8", "replace")),
    }
    if ended.returncode and not result["broken"]:
        result["broken"] = [str(log)]
    (output / f"{reader}.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def regressions(reader: str) -> list[bytes]:
    """Inputs that broke the reader once."""
    folder = ROOT / "tests" / "fuzz" / "regressions" / reader
    return [file.read_bytes() for file in sorted(folder.glob("*"))]


def table(results: list[dict[str, Any]]) -> str:
    """One line per reader, as Markdown."""
    lines = [
        "| reader | seconds | executions | a second | edges | features | corpus | MiB | broken |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {r['reader']} | {r['seconds']:,} | {r['executions']:,} | {r['rate']:,} | "
        f"{r['edges']:,} | {r['features']:,} | {r['corpus']:,} | {r['memory']:,} | "
        f"{len(r['broken'])} |"
        for r in results
    ]
    return "\n".join(lines)


def _figures(log: str) -> dict[str, int]:
    """What libFuzzer says about a run."""
    statistics = {name: int(value) for name, value in _STATISTIC.findall(log)}
    edges, features, corpus = (_STATUS.findall(log) or [(0, 0, 0)])[-1]
    return {
        "executions": statistics.get("number_of_executed_units", 0),
        "rate": statistics.get("average_exec_per_sec", 0),
        "memory": statistics.get("peak_rss_mb", 0),
        "edges": int(edges),
        "features": int(features),
        "corpus": int(corpus),
    }


def _dictionary(reader: str, output: Path) -> Path:
    """libFuzzer's form of the words that a mutation may insert."""
    words: list[str] = getattr(load(reader), "DICTIONARY", [])
    lines = ['"' + "".join(f"\\x{byte:02x}" for byte in word.encode()) + '"' for word in words]
    file = output / f"{reader}.dict"
    file.write_text("\n".join(lines) + "\n")
    return file


if __name__ == "__main__":
    raise SystemExit(main())
