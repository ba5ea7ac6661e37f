"""What trainings of the demo model share: when to stop, updates, a file to go on from, a log.

Knows no loss and no data.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from arkinfer.models.minicpm import CausalLM
from recipes.demo.optimizer import make_optimizers
from recipes.demo.shape import RESERVED_CHANNELS, RESERVED_UNIT


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


class Loop:
    """Model, optimizers and progress, with a file to go on from."""

    def __init__(self, model: CausalLM, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.out: Path = arguments.out
        self.model = model
        self.optimizers = make_optimizers(
            model, arguments.muon_lr, arguments.adam_lr, arguments.decay
        )
        self.base = [[g["lr"] for g in o.param_groups] for o in self.optimizers]
        self.progress = Progress(total_steps=arguments.steps, started=time.time())

    def resume(self) -> None:
        """Goes on where the last run in this folder was saved, if there was one."""
        path = self.out / "state.pt"
        if path.exists():
            state = torch.load(path, weights_only=True)
            self.model.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.progress = Progress(**state["progress"])
        self.progress.deadline = deadline(self.arguments)

    def save(self) -> None:
        """Writes everything that `resume` needs."""
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": asdict(self.progress),
        }
        torch.save(state, self.out / "state.pt.part")
        os.replace(self.out / "state.pt.part", self.out / "state.pt")

    def prepare(self, factor: float) -> None:
        """Before a loss is computed: learning rates times `factor`, and no gradient."""
        for optimizer, rates in zip(self.optimizers, self.base, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            optimizer.zero_grad(set_to_none=True)

    def update(self, loss: Tensor, tokens: int) -> float:
        """One step down the loss of a batch; the norm of the gradient before it was clipped."""
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        keep_reserved_zero(self.model)
        self.progress.step += 1
        self.progress.tokens += tokens
        return float(norm)

    def log(self, entry: dict[str, Any]) -> None:
        """Appends a line to log.jsonl."""
        p = self.progress
        entry = {"step": p.step, "tokens": p.tokens, "share": round(p.reached, 4), **entry}
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")


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


def options(about: str | None) -> argparse.ArgumentParser:
    """The options that every training has; `about` is the docstring of its module."""
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--until", help="stop at this time of day, HH:MM in UTC")
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--batch-tokens", type=int)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float)
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument("--checkpoint-minutes", type=float, default=5.0)
    parser.add_argument("--compile", action="store_true", help="needs a C++ compiler")
    return parser


def parsed(
    parser: argparse.ArgumentParser, words: Sequence[str] | None = None
) -> argparse.Namespace:
    """The arguments, which have to say when to stop."""
    arguments = parser.parse_args(words)
    if not (arguments.until or arguments.minutes or arguments.steps):
        parser.error("say when to stop: --until, --minutes or --steps")
    return arguments


def begin(arguments: argparse.Namespace) -> None:
    """Threads, seed and the output folder."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
