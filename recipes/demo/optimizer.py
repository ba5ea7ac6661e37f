"""Muon for the matrices of the layers, AdamW for the rest. Knows no model but its names.

Source: Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024);
the coefficients of the Newton-Schulz iteration are from there.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """Roughly U V^T of the singular value decomposition U S V^T, in bfloat16."""
    a, b, c = COEFFICIENTS
    x = matrix.to(torch.bfloat16)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized; decoupled weight decay."""

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        del closure
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["average"] = torch.zeros_like(p)
                state["average"].lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalize(p.grad.lerp(state["average"], group["momentum"]))
                p.mul_(1 - group["lr"] * group["decay"])
                scale = max(1.0, p.shape[0] / p.shape[1]) ** 0.5
                p.add_(update, alpha=-group["lr"] * scale)


def make_optimizers(
    model: nn.Module, muon_lr: float, adam_lr: float, decay: float
) -> list[torch.optim.Optimizer]:
    """Muon over the layers' matrices; AdamW over the embedding and the norm weights."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    embedding = [p for n, p in model.named_parameters() if "embed" in n]
    gains = [p for p in model.parameters() if p.ndim == 1]
    adam = torch.optim.AdamW(
        [{"params": embedding, "weight_decay": 0.01}, {"params": gains, "weight_decay": 0.0}],
        lr=adam_lr,
        betas=(0.9, 0.95),
        eps=1e-10,
    )
    return [Muon(matrices, lr=muon_lr, decay=decay), adam]
