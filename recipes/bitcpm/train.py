"""Ternary quantization-aware fine-tuning of the demo model, distilled from itself.

    python -m recipes.bitcpm.train CORPUS OUT --until 11:00 [--threads 2] [--compile]

CORPUS is what `recipes/demo/corpus.py` wrote; teacher and first weights are the packaged demo
checkpoint, or `--teacher`. OUT receives state.pt (everything needed to go on; the same command
resumes) and log.jsonl. The loss is the KL divergence from the teacher's distribution at every
position, and a share of the cross-entropy of `recipes/demo`. `--steps` in place of a time makes
the run independent of the machine's speed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arkinfer.models.minicpm import CausalLM, causal_attend
from recipes.bitcpm.ternary import make_ternary
from recipes.demo import probes
from recipes.demo.checkpoint import read_model, read_tokenizer
from recipes.demo.loop import Loop, begin, options, parsed
from recipes.demo.mixture import Batch, Mixture, read_documents

DEMO = Path(__file__).parents[2] / "arkinfer" / "demo" / "checkpoint"
LENGTHS = ((512, 0.65), (1024, 0.25), (2048, 0.1))
"""Sequence lengths and how often each is drawn. The teacher knows long texts already."""
RAW_UNTIL = 0.6
"""Until this share of the training, more than half of the rows are raw text."""
CROSS_ENTROPY = 0.2
"""The share of the cross-entropy in the loss; the rest is the divergence from the teacher."""
WARMUP_STEPS = 30
DECAY_SHARE = 0.8
PROBED_TOKENS = 16 * probes.WINDOW


def learning_rate_factor(step: int, share: float) -> float:
    """Warm-up by steps, then 1, then a linear fall over the last `DECAY_SHARE`."""
    return min(1.0, (step + 1) / WARMUP_STEPS, max(0.0, 1.0 - share) / DECAY_SHARE)


def sample_shape(seed: int, step: int, tokens: int) -> tuple[int, int]:
    """Rows and length of the batch of a step, of about `tokens` tokens."""
    rng = np.random.default_rng([seed, step, 1])
    length = int(rng.choice([size for size, _ in LENGTHS], p=[odds for _, odds in LENGTHS]))
    return max(1, tokens // length), length


def log_probabilities(model: CausalLM, inputs: Tensor) -> Tensor:
    """float32 [B * T, V]."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(inputs, torch.arange(inputs.shape[1]), causal_attend)
        logits = model.head(hidden)
    return torch.log_softmax(logits.float().flatten(0, 1), -1)


def distillation_loss(
    model: CausalLM, teacher: CausalLM, inputs: Tensor, targets: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss, and of it the mean KL divergence KL(teacher || model) over all positions."""
    with torch.no_grad():
        wanted = log_probabilities(teacher, inputs)
    ours = log_probabilities(model, inputs)
    divergence = (wanted.exp() * (wanted - ours)).sum(-1).mean()
    picked = -ours.gather(1, targets.flatten().unsqueeze(1)).squeeze(1)
    weight = weights.flatten()
    cross = (picked * weight).sum() / weight.sum().clamp(min=1.0)
    return (1 - CROSS_ENTROPY) * divergence + CROSS_ENTROPY * cross, divergence.detach()


class FineTuning(Loop):
    """The demo model made ternary, and the one that it learns from."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        model = read_model(arguments.teacher).train()
        make_ternary(model)
        super().__init__(model, arguments)
        documents = read_documents(arguments.corpus / "train.jsonl")
        self.tokenizer = read_tokenizer(arguments.teacher)
        self.mixture = Mixture(documents, self.tokenizer, arguments.seed)
        self.held_out = self.tokenizer.encode(
            (arguments.corpus / "heldout.txt").read_text(encoding="utf-8"),
            add_special_tokens=False,
        ).ids
        self.teacher = read_model(arguments.teacher).requires_grad_(False)
        self.loss: Any = distillation_loss
        if arguments.compile:
            self.loss = torch.compile(distillation_loss, dynamic=False)

    def batch(self) -> Batch:
        p = self.progress
        rows, length = sample_shape(self.arguments.seed, p.step, self.arguments.batch_tokens)
        stage = 0.3 if p.reached < RAW_UNTIL else 0.7
        return self.mixture.batch(p.step, stage, rows, length)

    def step(self, batch: Batch) -> tuple[float, float]:
        """One update; the loss and the divergence from the teacher."""
        self.prepare(learning_rate_factor(self.progress.step, self.progress.share()))
        tensors = [torch.from_numpy(part) for part in (batch.inputs, batch.targets, batch.weights)]
        loss, divergence = self.loss(self.model, self.teacher, *tensors)
        self.update(loss, batch.inputs.size)
        return float(loss.detach()), float(divergence)

    def probe(self) -> None:
        self.model.eval()
        found = probes.perplexity(self.model, self.held_out[:PROBED_TOKENS])
        self.log({"heldout_ppl": round(found, 3)})
        self.model.train()

    def run(self) -> None:
        every = self.arguments.checkpoint_minutes * 60
        saved = began = time.time()
        window: list[tuple[float, float]] = []
        tokens = self.progress.tokens
        while self.progress.share() < 1.0:
            window.append(self.step(self.batch()))
            p = self.progress
            if p.step % 25 == 0:
                loss, divergence = (
                    sum(values) / len(window) for values in zip(*window, strict=True)
                )
                speed = (p.tokens - tokens) / (time.time() - began)
                self.log({"loss": round(loss, 4), "kl": round(divergence, 4), "tok/s": int(speed)})
                window, began, tokens = [], time.time(), p.tokens
            if time.time() - saved > every:
                self.save()
                self.probe()
                saved = began = time.time()
                tokens = p.tokens
        self.save()
        self.probe()


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = options(__doc__)
    parser.add_argument("--teacher", type=Path, default=DEMO, help="a checkpoint of recipes/demo")
    parser.set_defaults(seed=20250906, batch_tokens=2048, adam_lr=1e-3)
    return parsed(parser, words)


def main() -> None:
    arguments = parse_arguments()
    begin(arguments)
    tuning = FineTuning(arguments)
    tuning.resume()
    tuning.run()


if __name__ == "__main__":
    main()
