"""Trains the demo model, in the background, until a given time.

    python -m recipes.demo.train CORPUS OUT --until 04:15 [--threads 2] [--compile]

CORPUS is what `corpus.py` wrote. OUT receives tokenizer.json, config.json, state.pt (everything
needed to go on; the same command resumes) and log.jsonl. The learning rate warms up, stays, and
falls linearly to zero over the last third of the time (WSD); `--steps` in place of a time makes
the run independent of the machine's speed.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from torch import Tensor, nn

from arkinfer.models.config import parse_config
from arkinfer.models.minicpm import CausalLM, causal_attend
from recipes.demo.loop import Loop, begin, options, parsed
from recipes.demo.mixture import Batch, Mixture, read_documents, sample_shape
from recipes.demo.probes import probe
from recipes.demo.shape import CONFIG
from recipes.demo.vocabulary import load_or_train

WARMUP_STEPS = 100
DECAY_SHARE = 0.5
COMPILED_LENGTH = 1024
"""Longer batches are rare and mostly attention: compiling them would cost more than it saves."""


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


def weighted_loss(model: CausalLM, inputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Mean cross entropy by weight, with a small penalty on the logits' normalizer (z-loss)."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(inputs, torch.arange(inputs.shape[1]), causal_attend)
        logits = model.head(hidden)
    flat, wanted, weight = logits.float().flatten(0, 1), targets.flatten(), weights.flatten()
    normalizer = torch.logsumexp(flat, -1)
    losses = normalizer - flat.gather(1, wanted.unsqueeze(1)).squeeze(1) + 1e-4 * normalizer**2
    return (losses * weight).sum() / weight.sum().clamp(min=1.0)


class Training(Loop):
    """The training from nothing."""

    def __init__(self, arguments: argparse.Namespace, mixture: Mixture) -> None:
        model = CausalLM(parse_config(CONFIG))
        initialize(model, arguments.seed)
        super().__init__(model, arguments)
        self.mixture = mixture
        self.compiled = torch.compile(weighted_loss, dynamic=False)

    def step(self, batch: Batch) -> tuple[float, float]:
        """One update; the loss and the norm of the gradient."""
        self.prepare(learning_rate_factor(self.progress.step, self.progress.share()))
        tensors = [torch.from_numpy(part) for part in (batch.inputs, batch.targets, batch.weights)]
        short = batch.inputs.shape[1] <= COMPILED_LENGTH and self.arguments.compile
        loss = (self.compiled if short else weighted_loss)(self.model, *tensors)
        return float(loss.detach()), self.update(loss, batch.inputs.size)

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


def parse_arguments() -> argparse.Namespace:
    parser = options(__doc__)
    parser.set_defaults(seed=20250611, batch_tokens=4096, adam_lr=3e-3)
    return parsed(parser)


def main() -> None:
    arguments = parse_arguments()
    begin(arguments)
    torch._dynamo.config.recompile_limit = 64  # one graph per shape of batch
    documents = read_documents(arguments.corpus / "train.jsonl")
    tokenizer = load_or_train(arguments.out / "tokenizer.json", documents, arguments.seed)
    (arguments.out / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    training = Training(arguments, Mixture(documents, tokenizer, arguments.seed))
    training.resume()
    training.run()


if __name__ == "__main__":
    main()
