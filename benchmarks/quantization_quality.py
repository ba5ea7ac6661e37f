"""What each method of quantization costs a model: perplexity and KL divergence on held-out text.

    python benchmarks/quantization_quality.py --calib train.jsonl [--plant massive] [--seeds 3]

Prints a Markdown table: method and scheme, bits per weight of the linears, perplexity above that of
the model as it is, mean KL divergence from it, and seconds. Calibrated methods are run once for
each seed, which takes other windows of the text. Embedding and head stay as they are, and the
arithmetic is float32: the figures are those of the linears alone. `--plant` adds outliers to the
demo model, as `recipes/demo/plant.py` does. Knows no artifact and no backend.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from arkinfer.compiler.cache import Cache
from arkinfer.compiler.calibration.job import Job
from arkinfer.compiler.calibration.linears import norms_of, schemes_for
from arkinfer.compiler.calibration.overlay import Overlay
from arkinfer.compiler.calibration.run import calibrate
from arkinfer.compiler.calibration.text import TextOptions, sequences
from arkinfer.frontend.checkpoint import Checkpoint, open_checkpoint
from arkinfer.frontend.hub import demo_checkpoint
from arkinfer.models.minicpm import CausalLM, causal_attend
from arkinfer.packing import Scheme, parse_scheme
from arkinfer.quant import round_to_nearest
from arkinfer.quant.method import METHODS
from arkinfer.runtime.tokenizer import Tokenizer

HELD_OUT = Path(__file__).parents[1] / "arkinfer" / "demo" / "heldout.txt"
WINDOW = 1024
Weights = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Row:
    """One line: means over seeds."""

    name: str
    bits: float
    perplexity: float
    above: float
    kl: float
    spread: float
    seconds: float


class Judge:
    """Held-out text, and what the model as it is says to it."""

    def __init__(self, checkpoint: Checkpoint, text: str, most: int) -> None:
        self._checkpoint = checkpoint
        self._ids = Tokenizer(checkpoint.tokenizer_json).encode(text)[:most]
        self._bos = checkpoint.config.bos_token_id or 0
        self.weights = {n: checkpoint.read(n).astype(np.float32) for n in checkpoint.names()}
        self._true = list(self._log_probabilities(self.weights))
        self.perplexity = self(self.weights)[0]

    def __call__(self, weights: Weights) -> tuple[float, float]:
        """Perplexity, and mean KL divergence from the model as it is."""
        loss = divergence = 0.0
        windows = zip(self._windows(), self._true, self._log_probabilities(weights), strict=True)
        for part, true, found in windows:
            loss -= float(found[torch.arange(len(part)), torch.tensor(part)].sum())
            divergence += float((true.exp() * (true - found)).sum())
        return math.exp(loss / len(self._ids)), divergence / len(self._ids)

    def _windows(self) -> list[list[int]]:
        return [self._ids[i : i + WINDOW] for i in range(0, len(self._ids), WINDOW)]

    def _log_probabilities(self, weights: Weights) -> list[torch.Tensor]:
        config = self._checkpoint.config
        model = CausalLM(config)
        state = {name: torch.from_numpy(weight) for name, weight in weights.items()}
        if config.tie_word_embeddings:
            state["lm_head.weight"] = state["model.embed_tokens.weight"]
        model.load_state_dict(state)
        found: list[torch.Tensor] = []
        with torch.inference_mode():
            for part in self._windows():
                ids = torch.tensor([self._bos, *part[:-1]])
                states = model.model(ids, torch.arange(len(ids)), causal_attend)
                found.append(torch.log_softmax(model.head(states), -1))
        return found


def rounded(judge: Judge, checkpoint: Checkpoint, scheme: Scheme, clip: bool) -> Weights:
    """Round-to-nearest, with the search for ranges or by the largest magnitude."""
    linears = schemes_for(checkpoint.config, scheme)
    return {
        name: round_to_nearest(weight, scheme, clip=clip).dequantize()
        if name in linears
        else weight
        for name, weight in judge.weights.items()
    }


def calibrated(checkpoint: Checkpoint, scheme: Scheme, method: str, text: TextOptions) -> Weights:
    """By a calibrated method; nothing comes from a cache."""
    config, chosen = checkpoint.config, METHODS[method]
    schemes = schemes_for(config, scheme)
    job = Job(
        config, config.max_position_embeddings, chosen, schemes, None, sequences(text, checkpoint)
    )
    with Overlay(checkpoint, schemes, norms_of(config) if chosen.smooth else ()) as found:
        calibrate(checkpoint, job, found, Cache(None))
        return {name: found.read(name).astype(np.float32) for name in found.names()}


def measure(
    judge: Judge, name: str, scheme: Scheme, makers: list[Callable[[], Weights]], bits: float
) -> Row:
    found: list[tuple[float, float, float]] = []
    for make in makers:
        began = time.monotonic()
        weights = make()
        spent = time.monotonic() - began
        found.append((*judge(weights), spent))
    perplexity, kl, seconds = np.mean(np.asarray(found), axis=0).tolist()
    spread = float(np.ptp([each[0] for each in found]))
    above = perplexity - judge.perplexity
    return Row(f"{name} {scheme.name}", bits, perplexity, above, kl, spread, seconds)


def print_row(row: Row, judge: Judge) -> None:
    share = 100 * row.above / judge.perplexity
    print(
        f"| {row.name} | {row.bits:.2f} | {row.perplexity:.3f} | {row.above:+.3f} ({share:.2f} %) "
        f"| {row.spread:.3f} | {row.kl:.4f} | {row.seconds:.0f} |",
        flush=True,
    )


def planted(folder: Path, kind: str, seed: int, out: Path) -> Path:
    """A copy of the demo model with outliers that change nothing it computes."""
    from safetensors.torch import load_file

    from arkinfer.models.config import parse_config
    from recipes.demo.export import write_checkpoint
    from recipes.demo.plant import check_room, make_plan, plant_hot, plant_massive

    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = parse_config(raw)
    stored = load_file(folder / "model.safetensors")
    check_room(stored)
    weights = {name: tensor.double() for name, tensor in stored.items()}
    plan = make_plan(config, seed)
    if kind in ("massive", "both"):
        plant_massive(weights, config, plan)
    if kind in ("hot", "both"):
        plant_hot(weights, config, plan, seed)
    write_checkpoint(weights, raw, folder / "tokenizer.json", out)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=demo_checkpoint())
    parser.add_argument("--heldout", type=Path, default=HELD_OUT)
    parser.add_argument("--limit", type=int, default=1 << 20, help="held-out tokens")
    parser.add_argument("--calib", type=Path, help="default: the built-in text")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--schemes", default="int4-g128,int4-g32-asym")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--plant", choices=("none", "massive", "hot", "both"), default="none")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = arguments.model
        if arguments.plant != "none":
            folder = planted(folder, arguments.plant, 0, Path(temporary) / "planted")
        checkpoint = open_checkpoint(folder)
        judge = Judge(checkpoint, arguments.heldout.read_text(encoding="utf-8"), arguments.limit)
        print(f"as it is: perplexity {judge.perplexity:.3f}\n")
        print("| method | bits | perplexity | above | over seeds | KL | s |")
        print("|---|---|---|---|---|---|---|")
        columns = checkpoint.config.hidden_size
        for scheme in map(parse_scheme, arguments.schemes.split(",")):
            bits = scheme.bits_per_weight(columns)
            for name, clip in (("absmax", False), ("rtn", True)):
                make = partial(rounded, judge, checkpoint, scheme, clip)
                print_row(measure(judge, name, scheme, [make], bits), judge)
            for name in filter(None, arguments.methods.split(",")):
                makers = [
                    partial(
                        calibrated, checkpoint, scheme, name,
                        TextOptions(arguments.calib, arguments.samples, seed=seed),
                    )
                    for seed in range(arguments.seeds)
                ]  # fmt: skip
                print_row(measure(judge, name, scheme, makers, bits), judge)


if __name__ == "__main__":
    main()
