"""Trains the demo model, in the background, until a given time.

    python -m recipes.demo.train CORPUS OUT --until 04:15 [--threads 2] [--compile]

CORPUS is what `corpus.py` wrote. OUT receives tokenizer.json, config.json, state.pt (everything
needed to go on; the same command resumes) and log.jsonl. The learning rate warms up, stays, and
falls linearly to zero over the last third of the time (WSD); `--steps` in place of a time makes
the run independent of the machine's speed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from arkinfer.models.config import parse_config
from arkinfer.models.minicpm import CausalLM, causal_attend
from recipes.demo.mixture import Batch, Mixture, read_documents, sample_shape
from recipes.demo.optimizer import make_optimizers
from recipes.demo.probes import probe
from recipes.demo.shape import CONFIG, RESERVED_CHANNELS, RESERVED_UNIT
from recipes.demo.vocabulary import load_or_train

WARMUP_STEPS = 100
DECAY_SHARE = 0.5
COMPILED_LENGTH = 1024
"""Longer batches are rare and mostly attention: compiling them would cost more than it saves."""


@dataclass
class Progress:
    """How far the training is: by steps, or by wall clock where `deadline` is set."""

    step: int = 0
    tokens: int = 0
    total_steps: int = 0
    started: float = 0.0
    deadline: float = 0.0
    reached: float = 0.0

    def share(self) -> float:
        """Between 0 and 1; never falls, also when a clock is moved."""
        if self.total_steps:
            now = self.step / self.total_steps
        else:
            now = (time.time() - self.started) / (self.deadline - self.started)
        self.reached = max(self.reached, min(1.0, now))
        return self.reached


def learning_rate_factor(step: int, share: float) -> float:
    """Warm-up by steps, then 1, then a linear fall over the last `DECAY_SHARE`."""
    return min(1.0, (step + 1) / WARMUP_STEPS, max(0.0, 1.0 - share) / DECAY_SHARE)


def initialize(model: CausalLM, seed: int) -> None:
    """Embedding: unit RMS after scaling. Matrices: fan-in; those into the residual: zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if "embed_tokens" in name:
            nn.init.normal_(p, std=1 / model.config.embedding_scale, generator=generator)
        elif p.ndim == 2:
            zero = name.endswith(("o_proj.weight", "down_proj.weight"))
            nn.init.normal_(p, std=0.0 if zero else p.shape[1] ** -0.5, generator=generator)


@torch.no_grad()
def keep_reserved_zero(model: CausalLM) -> None:
    """Nothing is written to the reserved channels and units; called after every update."""
    channels = list(RESERVED_CHANNELS)
    for name, p in model.named_parameters():
        if name.endswith("embed_tokens.weight"):
            p[:, channels] = 0.0
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            p[channels] = 0.0
        elif p.ndim == 2:
            p[:, channels] = 0.0
        if name.endswith("down_proj.weight"):
            p[:, RESERVED_UNIT] = 0.0
        elif name.endswith(("gate_proj.weight", "up_proj.weight")):
            p[RESERVED_UNIT] = 0.0


def weighted_loss(model: CausalLM, inputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Mean cross entropy by weight, with a small penalty on the logits' normalizer (z-loss)."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(inputs, torch.arange(inputs.shape[1]), causal_attend)
        logits = model.head(hidden)
    flat, wanted, weight = logits.float().flatten(0, 1), targets.flatten(), weights.flatten()
    normalizer = torch.logsumexp(flat, -1)
    losses = normalizer - flat.gather(1, wanted.unsqueeze(1)).squeeze(1) + 1e-4 * normalizer**2
    return (losses * weight).sum() / weight.sum().clamp(min=1.0)


class Training:
    """Model, optimizers and progress, with a file to go on from."""

    def __init__(self, arguments: argparse.Namespace, mixture: Mixture) -> None:
        self.arguments = arguments
        self.mixture = mixture
        self.out: Path = arguments.out
        self.model = CausalLM(parse_config(CONFIG))
        initialize(self.model, arguments.seed)
        self.optimizers = make_optimizers(
            self.model, arguments.muon_lr, arguments.adam_lr, arguments.decay
        )
        self.base = [[g["lr"] for g in o.param_groups] for o in self.optimizers]
        self.progress = Progress(total_steps=arguments.steps, started=time.time())
        self.compiled = torch.compile(weighted_loss, dynamic=False)

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

    def step(self, batch: Batch) -> tuple[float, float]:
        """One update; the loss and the norm of the gradient."""
        factor = learning_rate_factor(self.progress.step, self.progress.share())
        for optimizer, rates in zip(self.optimizers, self.base, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            optimizer.zero_grad(set_to_none=True)
        tensors = [torch.from_numpy(part) for part in (batch.inputs, batch.targets, batch.weights)]
        short = batch.inputs.shape[1] <= COMPILED_LENGTH and self.arguments.compile
        loss = (self.compiled if short else weighted_loss)(self.model, *tensors)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        keep_reserved_zero(self.model)
        self.progress.step += 1
        self.progress.tokens += batch.inputs.size
        return float(loss.detach()), float(norm)

    def log(self, entry: dict[str, Any]) -> None:
        p = self.progress
        entry = {"step": p.step, "tokens": p.tokens, "share": round(p.reached, 4), **entry}
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def run(self) -> None:
        every = self.arguments.checkpoint_minutes * 60
        saved = probed = time.time()
        window: list[tuple[int, float]] = []
        began, tokens = time.time(), self.progress.tokens
        while self.progress.share() < 1.0:
            p = self.progress
            budget = self.arguments.batch_tokens
            rows, length = sample_shape(self.arguments.seed, p.step, p.reached, budget)
            loss, norm = self.step(self.mixture.batch(p.step, p.reached, rows, length))
            window.append((length, loss))
            if p.step % 25 == 0:
                speed = (p.tokens - tokens) / (time.time() - began)
                mean = sum(value for _, value in window) / len(window)
                self.log({"loss": round(mean, 4), "norm": round(norm, 3), "tok/s": round(speed)})
                window, began, tokens = [], time.time(), p.tokens
            if time.time() - saved > every:
                self.save()
                saved = time.time()
            if time.time() - probed > 6 * every:
                self.log(probe(self.model, self.mixture.tokenizer, self.arguments.corpus))
                probed = began = time.time()
                tokens = p.tokens
        self.save()
        self.log(probe(self.model, self.mixture.tokenizer, self.arguments.corpus))


def deadline(arguments: argparse.Namespace) -> float:
    """Seconds since the epoch; `--until` is the next such time of day in UTC."""
    if arguments.minutes:
        return time.time() + 60 * arguments.minutes
    if not arguments.until:
        return time.time()
    now = datetime.datetime.now(datetime.timezone.utc)
    hour, minute = map(int, arguments.until.split(":"))
    end = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return (end if end > now else end + datetime.timedelta(days=1)).timestamp()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--until", help="stop at this time of day, HH:MM in UTC")
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=20250611)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=3e-3)
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument("--checkpoint-minutes", type=float, default=5.0)
    parser.add_argument("--compile", action="store_true", help="needs a C++ compiler")
    arguments = parser.parse_args()
    if not (arguments.until or arguments.minutes or arguments.steps):
        parser.error("say when to stop: --until, --minutes or --steps")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    torch._dynamo.config.recompile_limit = 64  # one graph per shape of batch
    arguments.out.mkdir(parents=True, exist_ok=True)
    documents = read_documents(arguments.corpus / "train.jsonl")
    tokenizer = load_or_train(arguments.out / "tokenizer.json", documents, arguments.seed)
    (arguments.out / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    training = Training(arguments, Mixture(documents, tokenizer, arguments.seed))
    training.resume()
    training.run()


if __name__ == "__main__":
    main()
