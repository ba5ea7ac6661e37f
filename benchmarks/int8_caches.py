"""What an int8 key-value cache costs: perplexity and KL divergence from the fp32 cache.

    python benchmarks/int8_caches.py [CHECKPOINT] [--limit 8192] [--random 128]

Builds three artifacts with weights as they are: caches in fp32, in int8 with a scale per head and
token, and in int8 with calibrated scales per channel. The backend "tvm" runs all of them, so that
nothing else differs; it has the scales per channel because a section for ONNX Runtime, which knows
no others, stands beside its own. Prints a Markdown table. `--random` takes a small model of random
weights with heads of that size, and reads random tokens; its perplexity says nothing. The text is
read in windows, none of which sees the one before.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import arkinfer
from arkinfer.frontend.hub import demo_checkpoint
from arkinfer.runtime.engine import Engine
from arkinfer.testing import make_checkpoint, preset

HELD_OUT = Path(__file__).parents[1] / "arkinfer" / "demo" / "heldout.txt"
FORMS = {
    "fp32": {"kv": "fp32", "backend": "tvm"},
    "int8, a scale per head and token": {"kv": "int8", "backend": "tvm"},
    "int8, a scale per channel": {"kv": "int8", "backend": ("tvm", "onnxruntime")},
}
CHUNK = 256
RANDOM: dict[str, Any] = {
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rope_scaling": None,
}
"""Of `arkinfer.testing`'s preset "tiny"."""


def log_probabilities(engine: Engine, tokens: list[int], window: int) -> Iterator[np.ndarray]:
    """Of every token that may follow each of these, a chunk of at most `CHUNK` at a time."""
    for start in range(0, len(tokens), window):
        part = np.asarray(tokens[start : start + window])
        state = engine.executable.new_state(len(part))
        for first in range(0, len(part), CHUNK):
            logits = state.step(part[first : first + CHUNK], rows="all").logits.astype(np.float64)
            logits -= logits.max(axis=-1, keepdims=True)
            yield logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def row(exact: Engine, engine: Engine, tokens: list[int], window: int) -> tuple[float, ...]:
    """Perplexity, mean and 99th-percentile KL divergence, share of positions whose best token is
    the same."""
    loss, divergence, same = [], [], []
    place = 0
    both = (log_probabilities(each, tokens, window) for each in (exact, engine))
    for true, found in zip(*both, strict=True):
        divergence += (np.exp(true) * (true - found)).sum(axis=-1).tolist()
        same += (true.argmax(-1) == found.argmax(-1)).tolist()
        for line in found:
            place += 1
            if place % window and place < len(tokens):
                loss.append(-line[tokens[place]])
    kl = np.asarray(divergence)
    return float(np.exp(np.mean(loss))), kl.mean(), float(np.quantile(kl, 0.99)), np.mean(same)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "checkpoint", nargs="?", type=Path, help="a folder; default: the demo model"
    )
    parser.add_argument("--heldout", type=Path, default=HELD_OUT)
    parser.add_argument("--limit", type=int, default=8192, help="tokens")
    parser.add_argument("--window", type=int, default=2048, help="tokens")
    parser.add_argument("--random", type=int, help="of each head, in place of a checkpoint")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.checkpoint or demo_checkpoint()
        if arguments.random:
            shape = preset("tiny", **RANDOM, head_dim=arguments.random)
            model = make_checkpoint(shape, 0, Path(folder) / "random")
        engines: dict[str, Engine] = {}
        for number, (name, options) in enumerate(FORMS.items()):
            path = Path(folder) / f"{number}.ark"
            arkinfer.build(model, quant="none", chunk=CHUNK, output=path, **options)
            engines[name] = arkinfer.load(path, backend="tvm")
        exact = engines["fp32"]
        tokens = exact.tokenizer.encode(arguments.heldout.read_text("utf-8"))[: arguments.limit]
        if arguments.random:
            most = exact.executable.vocab_size
            tokens = np.random.default_rng(0).integers(0, most, arguments.limit).tolist()
        print(f"{len(tokens):,} tokens in windows of {arguments.window:,}\n")
        print(
            "| cache | perplexity | mean KL | 99 % of KL | same best token |\n|---|---|---|---|---|"
        )
        for name, engine in engines.items():
            perplexity, mean, high, same = row(exact, engine, tokens, arguments.window)
            print(f"| {name} | {perplexity:.4f} | {mean:.2e} | {high:.2e} | {100 * same:.2f} % |")


if __name__ == "__main__":
    main()
