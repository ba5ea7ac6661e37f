"""The network of a TensorRT artifact in torch, node by node and with its kernels, against the
reference backend: how far logits are apart, and how fast a step is decoded.

    arkinfer build demo --target jetson-orin --backend tensorrt --backend reference -o replay.ark
    python -m benchmarks.replay replay.ark --most 1e-3

Both sections of the artifact get the same tokens of a text, ours in prefill chunks of odd sizes and
single steps mixed. TensorRT is not run: it fuses nodes, and chooses among kernels by their time.
"""

from __future__ import annotations

import argparse
import sys
from itertools import cycle
from pathlib import Path
from statistics import mean, median
from time import perf_counter

import numpy as np

import arkinfer
from arkinfer.diff.behaviour import divergences
from arkinfer.errors import ArkError, GateError, UsageError
from arkinfer.runtime.contract import Executable, Executor, FloatArray, IntArray
from arkinfer.runtime.engine import load
from arkinfer_ref.executor import ReferenceExecutor
from benchmarks.gpu import check_cuda
from benchmarks.torch_executor import TorchExecutor

TEXT = Path(arkinfer.__file__).parent / "demo" / "heldout.txt"
STEPS = (37, 1, 1, 5, 1, 64, 1, 17, 1, 1)
"""Tokens of each step, again and again."""


def main(arguments: list[str] | None = None) -> int:
    """Compares, times, prints; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.replay", description=__doc__.splitlines()[0]
    )
    parser.add_argument("artifact", type=Path, help="with a section tensorrt and one reference")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument(
        "--executor", action="store_true", help="by the board's own executor, on torch for TensorRT"
    )
    parser.add_argument("--network", choices=["gemv", "native"], help="default: its first")
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--decode", type=int, default=64, help="timed steps")
    parser.add_argument("--most", type=float, help="the largest mean KL in nats; else 3")
    given = parser.parse_args(arguments)
    try:
        if given.executor and given.device != "cuda":
            raise UsageError("A board's executor needs CUDA", "", "Leave out --device cpu.")
        if given.device == "cuda":
            check_cuda()
        replayed: Executor = TorchExecutor(given.network, given.device)
        if given.executor:
            from benchmarks.torch_tensorrt import TensorRTOnTorch

            replayed = TensorRTOnTorch(given.network)
        kl = compared(given.artifact, replayed, given.tokens)
        far = f"mean KL {mean(kl):.2e}, largest {max(kl):.2e} nats to the reference"
        print(f"{len(kl)} tokens: {far}", flush=True)
        rate, length = decoded(given.artifact, replayed, given.decode)
        print(f"{rate:.1f} tokens per second behind {length} tokens", flush=True)
        if given.most is not None and not mean(kl) <= given.most:
            raise GateError(f"The mean KL is {mean(kl):.2e}, above {given.most:.0e}")
    except ArkError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def compared(artifact: Path, replayed: Executor, count: int) -> tuple[float, ...]:
    """KL of each token's logits to those of the reference backend."""
    with load(artifact, executor=replayed) as engine:
        tokens = np.array(engine.tokenizer.encode(TEXT.read_text())[:count])
        ours = logits(engine.executable, tokens, STEPS)
    with load(artifact, executor=ReferenceExecutor()) as engine:
        expected = logits(engine.executable, tokens, (64,))
    return divergences(expected, ours)


def logits(executable: Executable, tokens: IntArray, sizes: tuple[int, ...]) -> FloatArray:
    """Of all tokens, in steps of these sizes, again and again."""
    state = executable.new_state(min(executable.max_context, len(tokens)))
    found: list[FloatArray] = []
    for size in cycle(sizes):
        if state.length == len(tokens):
            return np.concatenate(found)
        step = tokens[state.length : state.length + min(size, executable.chunk)]
        found.append(state.step(step, rows="all").logits)
    raise AssertionError("a cycle has no end")


def decoded(artifact: Path, replayed: Executor, steps: int) -> tuple[float, int]:
    """Tokens in a second: the median over steps, each with its logits on the host; and behind how
    many tokens."""
    with load(artifact, executor=replayed) as engine:
        state = engine.executable.new_state(engine.executable.max_context)
        prompt = min(engine.executable.chunk, state.capacity - steps - 1)
        last = state.step(np.arange(prompt) % engine.vocab_size).logits
        times: list[float] = []
        for _ in range(steps):
            begin = perf_counter()
            last = state.step(last[-1:].argmax(axis=-1)).logits
            times.append(perf_counter() - begin)
    return 1 / median(times), prompt


if __name__ == "__main__":
    sys.exit(main())
