"""What each method of quantization costs a model: perplexity and KL divergence on held-out text.

    python benchmarks/quantization_quality.py --calib train.jsonl --rows rows.jsonl

Prints Markdown: a table of methods and schemes, with bits per weight of the linears, perplexity
above that of the model as it is, mean KL divergence from it, each with its standard error over
seeds, and seconds; then for each pair of calibrated methods how they differ on the same seeds.
Calibrated methods are run once for each seed, which takes other windows of the text. Embedding and
head stay as they are, and the arithmetic is float32: the figures are those of the linears alone.
`--plant` adds outliers to the demo model, as `recipes/demo/plant.py` does. `--rows` keeps each
measurement as it is made: a run that is killed goes on behind the last one. Knows no artifact and
no backend.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import permutations
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
from arkinfer.models.config import ModelConfig
from arkinfer.models.minicpm import CausalLM, causal_attend
from arkinfer.packing import Scheme, parse_scheme
from arkinfer.quant import round_to_nearest
from arkinfer.quant.method import METHODS
from arkinfer.runtime.tokenizer import Tokenizer

DATA_FREE = ("absmax", "rtn")
HELD_OUT = Path(__file__).parents[1] / "arkinfer" / "demo" / "heldout.txt"
WINDOW = 1024
Weights = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        setting: model, outliers, text and sequences: what rows must share to be compared.
        scheme: of the linears.
        method: as in `--quant`, or "absmax".
        seed: of the calibration.
        above: perplexity above that of the model as it is.
        kl: mean divergence from it, in nats.
        seconds: that quantization took.
    """

    setting: str
    scheme: str
    method: str
    seed: int
    above: float
    kl: float
    seconds: float

    @property
    def key(self) -> tuple[str, str, str, int]:
        return self.setting, self.scheme, self.method, self.seed


class Judge:
    """Held-out text, and what the model as it is says to it."""

    def __init__(self, checkpoint: Checkpoint, text: str, most: int) -> None:
        self._checkpoint = checkpoint
        self._ids = Tokenizer(checkpoint.tokenizer_json).encode(text)[:most]
        self.tokens = len(self._ids)
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


class Rows:
    """Measurements, each in a line of a file as soon as it is made."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._rows: dict[tuple[str, str, str, int], Row] = {}
        if file is not None and file.exists():
            lines = file.read_text(encoding="utf-8").splitlines()
            self._rows = {row.key: row for row in (Row(**json.loads(line)) for line in lines)}

    def measure(
        self, setting: str, scheme: Scheme, method: str, seed: int, judge: Judge,
        make: Callable[[], Weights],
    ) -> Row:  # fmt: skip
        """The row, measured unless it is there."""
        known = self._rows.get((setting, scheme.name, method, seed))
        if known is not None:
            return known
        began = time.monotonic()
        weights = make()
        spent = time.monotonic() - began
        perplexity, kl = judge(weights)
        row = Row(setting, scheme.name, method, seed, perplexity - judge.perplexity, kl, spent)
        self._rows[row.key] = row
        if self._file is not None:
            with self._file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(asdict(row)) + "\n")
        return row


def with_error(numbers: Sequence[float], digits: int) -> str:
    """The mean, and its standard error if there are several numbers."""
    error = np.std(numbers, ddof=1) / math.sqrt(len(numbers)) if len(numbers) > 1 else 0.0
    shown = f"{np.mean(numbers):.{digits}f}"
    return f"{shown} ± {error:.{digits}f}" if error else shown


def bits_of(config: ModelConfig, scheme: Scheme) -> float:
    """Of one weight, over all linears."""
    shapes = config.tensor_shapes()
    linears = [shapes[name] for name in schemes_for(config, scheme)]
    bits = sum(rows * columns * scheme.bits_per_weight(columns) for rows, columns in linears)
    return bits / sum(rows * columns for rows, columns in linears)


def print_table(measured: Mapping[tuple[str, str], list[Row]], config: ModelConfig) -> None:
    """One line for each method and scheme."""
    print("| method | bits | perplexity above | KL | s |")
    print("|---|---|---|---|---|")
    for (scheme, method), rows in measured.items():
        print(
            f"| {method} {scheme} | {bits_of(config, parse_scheme(scheme)):.2f} "
            f"| {with_error([row.above for row in rows], 3)} "
            f"| {with_error([row.kl for row in rows], 4)} "
            f"| {np.mean([row.seconds for row in rows]):.0f} |"
        )


def print_pairs(measured: Mapping[tuple[str, str], list[Row]]) -> None:
    """How calibrated methods differ with the same sequences."""
    runs = [(key, rows) for key, rows in measured.items() if key[1] in METHODS]
    if len(runs) < 2:
        return
    print("\n| | KL less by | on seeds | perplexity less by |")
    print("|---|---|---|---|")
    for ((scheme, one), first), ((other_scheme, two), second) in permutations(runs, 2):
        less = [b.kl - a.kl for a, b in zip(first, second, strict=True)]
        if scheme == other_scheme and np.mean(less) > 0:
            above = [b.above - a.above for a, b in zip(first, second, strict=True)]
            print(
                f"| {one} than {two} {scheme} | {with_error(less, 4)} "
                f"| {sum(each > 0 for each in less)} of {len(less)} | {with_error(above, 3)} |"
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
        plant_massive(weights, config, plan, seed)
    if kind in ("hot", "both"):
        plant_hot(weights, config, plan, seed)
    write_checkpoint(weights, raw, folder / "tokenizer.json", out)
    return out


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=demo_checkpoint())
    parser.add_argument("--heldout", type=Path, default=HELD_OUT)
    parser.add_argument("--limit", type=int, default=1 << 20, help="held-out tokens")
    parser.add_argument("--calib", type=Path, help="default: the built-in text")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--schemes", default="int4-g128,int4-g32-asym")
    parser.add_argument("--methods", default=",".join((*DATA_FREE, *METHODS)))
    parser.add_argument("--plant", choices=("none", "massive", "hot", "both"), default="none")
    parser.add_argument("--rows", type=Path, help="keep measurements here, and take them from here")
    arguments = parser.parse_args()
    for method in set(arguments.methods.split(",")) - {*DATA_FREE, *METHODS}:
        parser.error(f'there is no method "{method}": {", ".join((*DATA_FREE, *METHODS))}')
    return arguments


def measure_all(
    checkpoint: Checkpoint, judge: Judge, arguments: argparse.Namespace
) -> dict[tuple[str, str], list[Row]]:
    """By scheme and method; says on standard error how far it is."""
    rows = Rows(arguments.rows)
    setting = (
        f"{arguments.model.name} {arguments.plant}, {arguments.samples} x {arguments.tokens} of "
        f"{arguments.calib.name if arguments.calib else 'the built-in text'}, "
        f"{judge.tokens} of {arguments.heldout.name}"
    )
    found: dict[tuple[str, str], list[Row]] = {}
    for scheme in map(parse_scheme, arguments.schemes.split(",")):
        for method in arguments.methods.split(","):
            for seed in range(arguments.seeds if method in METHODS else 1):
                make = (
                    partial(
                        calibrated, checkpoint, scheme, method,
                        TextOptions(arguments.calib, arguments.samples, arguments.tokens, seed),
                    )
                    if method in METHODS
                    else partial(rounded, judge, checkpoint, scheme, method == "rtn")
                )  # fmt: skip
                row = rows.measure(setting, scheme, method, seed, judge, make)
                found.setdefault((scheme.name, method), []).append(row)
                print(row, file=sys.stderr, flush=True)
    return found


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = arguments.model
        if arguments.plant != "none":
            folder = planted(folder, arguments.plant, 0, Path(temporary) / "planted")
        checkpoint = open_checkpoint(folder)
        judge = Judge(checkpoint, arguments.heldout.read_text(encoding="utf-8"), arguments.limit)
        measured = measure_all(checkpoint, judge, arguments)
    print(f"as it is: perplexity {judge.perplexity:.3f} over {judge.tokens:,} tokens\n")
    print_table(measured, checkpoint.config)
    print_pairs(measured)


if __name__ == "__main__":
    main()
