"""Counts the alarms of `arkinfer bench compare`: A against A, and against A with a thread fewer.

    python benchmarks/compare_alarms.py

At most one alarm in 20 for the same artifact, at least 19 in 20 with one thread for two. Prints a
line for each comparison, then the counts; ends with 1 when they are not met. Ten minutes on two
quiet cores; needs `arkinfer[ort]` and two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

QUICKLY = ["--lengths", "128", "--depths", "0", "--tokens", "8", "--rounds", "6"]
KINDS = {"same": ("2", "2"), "fewer": ("2", "1")}  # threads of A and B


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help="an .ark file")
    parser.add_argument("--times", type=int, default=20, help="comparisons of each kind")
    options = parser.parse_args()
    began = time.monotonic()
    alarms = dict.fromkeys(KINDS, 0)
    for number in range(options.times):
        for kind, threads in KINDS.items():  # in turns: whatever comes meets both
            facts = compare(options.model, threads, seed=number)
            verdicts = {case["verdict"] for case in facts["cases"]}
            alarms[kind] += bool(verdicts - {"same"} if kind == "same" else "slower" in verdicts)
            print(f"{number + 1:2} {kind:5} {facts['verdict']}", flush=True)
    most, least = options.times // 20, options.times - options.times // 20
    print(f"A against A: {alarms['same']} alarms in {options.times}, at most {most} allowed")
    print(
        f"one thread for two: {alarms['fewer']} caught in {options.times}, at least {least} asked"
    )
    print(f"{time.monotonic() - began:,.0f} s")
    if alarms["same"] > most or alarms["fewer"] < least:
        raise SystemExit(1)


def compare(model: str, threads: tuple[str, str], seed: int) -> dict:
    command = [sys.executable, "-m", "arkinfer", "bench", "compare", model, model, *QUICKLY]
    command += ["--threads-a", threads[0], "--threads-b", threads[1], "--seed", str(seed), "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
