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
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from arkinfer.models.minicpm import CausalLM, causal_attend
from recipes.bitcpm.ternary import make_ternary
from recipes.demo import probes
from recipes.demo.checkpoint import read_model, read_tokenizer
from recipes.demo.mixture import Batch, Mixture, read_documents
from recipes.demo.optimizer import make_optimizers
from recipes.demo.train import Progress, deadline, keep_reserved_zero

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


class FineTuning:
    """Student, teacher, optimizers and progress, with a file to go on from."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.out: Path = arguments.out
        documents = read_documents(arguments.corpus / "train.jsonl")
        self.tokenizer = read_tokenizer(arguments.teacher)
        self.mixture = Mixture(documents, self.tokenizer, arguments.seed)
        self.held_out = self.tokenizer.encode(
            (arguments.corpus / "heldout.txt").read_text(encoding="utf-8"),
            add_special_tokens=False,
        ).ids
        self.teacher = read_model(arguments.teacher).requires_grad_(False)
        self.model = read_model(arguments.teacher).train()
        make_ternary(self.model)
        self.optimizers = make_optimizers(
            self.model, arguments.muon_lr, arguments.adam_lr, arguments.decay
        )
        self.base = [[g["lr"] for g in o.param_groups] for o in self.optimizers]
        self.progress = Progress(total_steps=arguments.steps, started=time.time())
        self.loss: Any = distillation_loss
        if arguments.compile:
            self.loss = torch.compile(distillation_loss, dynamic=False)

    def resume(self) -> None:
        path = self.out / "state.pt"
        if path.exists():
            state = torch.load(path, weights_only=True)
            self.model.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.progress = Progress(**state["progress"])
        self.progress.deadline = deadline(self.arguments)

    def save(self) -> None:
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": asdict(self.progress),
        }
        torch.save(state, self.out / "state.pt.part")
        os.replace(self.out / "state.pt.part", self.out / "state.pt")

    def batch(self) -> Batch:
        p = self.progress
        rows, length = sample_shape(self.arguments.seed, p.step, self.arguments.batch_tokens)
        stage = 0.3 if p.reached < RAW_UNTIL else 0.7
        return self.mixture.batch(p.step, stage, rows, length)

    def step(self, batch: Batch) -> tuple[float, float]:
        """One update; the loss and the divergence from the teacher."""
        factor = learning_rate_factor(self.progress.step, self.progress.share())
        for optimizer, rates in zip(self.optimizers, self.base, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            optimizer.zero_grad(set_to_none=True)
        tensors = [torch.from_numpy(part) for part in (batch.inputs, batch.targets, batch.weights)]
        loss, divergence = self.loss(self.model, self.teacher, *tensors)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        keep_reserved_zero(self.model)
        self.progress.step += 1
        self.progress.tokens += batch.inputs.size
        return float(loss.detach()), float(divergence)

    def log(self, entry: dict[str, Any]) -> None:
        p = self.progress
        entry = {"step": p.step, "tokens": p.tokens, "share": round(p.reached, 4), **entry}
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")

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
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--teacher", type=Path, default=DEMO, help="a checkpoint of recipes/demo")
    parser.add_argument("--until", help="stop at this time of day, HH:MM in UTC")
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=20250906)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=1e-3)
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument("--checkpoint-minutes", type=float, default=5.0)
    parser.add_argument("--compile", action="store_true", help="needs a C++ compiler")
    arguments = parser.parse_args(words)
    if not (arguments.until or arguments.minutes or arguments.steps):
        parser.error("say when to stop: --until, --minutes or --steps")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    tuning = FineTuning(arguments)
    tuning.resume()
    tuning.run()


if __name__ == "__main__":
    main()
