"""Any `llama-bench` binary, run once for each sample: llama.cpp's or a fork's.

What it says it took counts, so that loading the model does not. A depth is reached by a real
prefill in every sample. Knows no measurement.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from arkinfer.bench.worker import FIRST
from arkinfer.errors import DeviceError, UsageError
from benchmarks.gguf_file import HEAD, TERNARY, WRITTEN, write_gguf
from benchmarks.peers import Form, Peer, serve_peer

PACKAGE = "gguf"
INSTALL = "gguf safetensors torch"
NAME = "llama-bench"
_ONCE = ["-r", "1", "-o", "json"]


def peers_of(binary: Path, kinds: list[str], python: Path) -> list[Peer]:
    """A peer for each type of GGUF that the binary shall run.

    Raises:
        UsageError: there is no such binary.
    """
    if not binary.is_file():
        raise UsageError(f'There is no program "{binary}"', fix="Give the path of a llama-bench")
    made: list[Peer] = []
    for kind in kinds:
        ternary = kind.startswith(TERNARY)
        how = f"{kind}, {HEAD} head, f16 caches, by the program that was given"
        options = {"binary": str(binary.absolute()), "type": kind}
        form = Form("ternary" if ternary else "int4", how, options)
        made.append(Peer(f"{NAME}-{kind.lower()}", sys.modules[__name__], form, python))
    return made


def prepare(checkpoint: Path, folder: Path, options: dict[str, Any]) -> Path:
    """The GGUF file, made once; types that gguf cannot write, by the `llama-quantize` beside."""
    kind = options["type"]
    path = folder / f"{kind.lower()}.gguf"
    if kind in WRITTEN:
        return write_gguf(checkpoint, path, kind)
    if not path.exists():
        tool = Path(options["binary"]).with_name("llama-quantize")
        if not tool.exists():
            raise SystemExit(f"There is no program {tool}, which makes {kind}")
        source = write_gguf(checkpoint, folder / f"{checkpoint.name}-bf16.gguf", "BF16")
        head = ["--token-embedding-type", HEAD.lower(), "--output-tensor-type", HEAD.lower()]
        partial = path.with_suffix(".part")
        command = [str(tool), *head, str(source), str(partial), kind]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{tool} does not make {kind}: {done.stderr.strip()[-300:]}")
        partial.rename(path)
    return path


def command(binary: str, path: str, threads: int, has_depth: bool, kind: str, depth: int,
            tokens: int) -> list[str]:  # fmt: skip
    """What measures a case once.

    Args:
        binary: the program.
        path: of the model.
        threads: for prompts and tokens alike.
        has_depth: whether it knows `-d`; forks may know `-gp prompt,tokens` instead.
        kind: "prefill" or "decode".
        depth: tokens before those that are timed.
        tokens: that are timed.
    """
    given = [binary, "-m", path, "-t", str(threads), *_ONCE]
    if kind == "prefill":
        return [*given, "-p", str(tokens), "-n", "0"]
    if depth and not has_depth:
        return [*given, "-p", "0", "-n", "0", "-gp", f"{depth},{tokens}"]
    return [*given, "-p", "0", "-n", str(tokens), *(["-d", str(depth)] if depth else [])]


def seconds_of(output: str, kind: str, tokens: int) -> float:
    """What it says that a case took, out of its JSON.

    Raises:
        DeviceError: it is no JSON, or of another case.
    """
    try:
        (found,) = json.loads(output)
        count = found["n_gen"] if kind == "decode" else found["n_prompt"]
        (nanoseconds,) = found["samples_ns"]
    except (KeyError, TypeError, ValueError) as error:
        said = f"It says: {output.strip()[:200]}"
        raise DeviceError("What llama-bench says cannot be read", said,
                          "Try another version of it") from error  # fmt: skip
    if count != tokens:
        raise DeviceError("llama-bench measured something else", f"{count} tokens, not {tokens}",
                          "Try another version of it")  # fmt: skip
    return nanoseconds / 1e9


class LlamaBench:
    """A program that is started anew for each sample."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._binary, self._path, self._threads = given["binary"], given["path"], given["threads"]
        done = subprocess.run([self._binary, "--help"], capture_output=True, text=True, check=False)
        self._has_depth = "--n-depth" in done.stdout + done.stderr
        self._depth = 0

    def seek(self, depth: int) -> None:
        self._depth = depth

    def prefill(self, count: int) -> float:
        return self._run("prefill", count)

    def decode(self, count: int) -> float:
        return self._run("decode", count)

    def memory(self) -> dict[str, int]:
        """Resident bytes at most of the program."""
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
        return {"now": peak, "peak": peak}

    def _run(self, kind: str, tokens: int) -> float:
        words = command(self._binary, self._path, self._threads, self._has_depth, kind,
                        self._depth, tokens)  # fmt: skip
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise DeviceError("llama-bench failed", said, "Give shorter lengths and depths")
        return seconds_of(done.stdout, kind, tokens)


def open_engine(given: dict[str, Any]) -> tuple[LlamaBench, dict[str, Any]]:
    engine = LlamaBench(given)
    began = time.perf_counter()
    took = engine.prefill(FIRST)
    loaded = time.perf_counter() - began - took
    return engine, {"load_seconds": loaded, "filled": "prefilled in every sample"}


if __name__ == "__main__":
    serve_peer(prepare, open_engine)
