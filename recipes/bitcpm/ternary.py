"""Ternary fake quantization of a model's linears, as BitCPM trains them. Knows no data.

A row w becomes s * clamp(round(w / s), -1, 1) with s = max(mean |w|, EPSILON); gradients go
through as if nothing had been rounded (straight-through estimator). Embedding, head and norms
stay as they are, and so do activations.
Source: BitCPM-CANN (OpenBMB 2025), section 3.2, with one group per row; BitNet b1.58 (Ma et al.
2024) for the scale.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from arkinfer.models.minicpm import CausalLM

EPSILON = 1e-5


def ternary(weight: Tensor) -> Tensor:
    """The matrix [N, K] with every row as {-s, 0, +s}, in its own dtype."""
    scale = weight.abs().mean(-1, keepdim=True).clamp(min=EPSILON)
    return (weight / scale).round().clamp(-1, 1) * scale


class TernaryLinear(nn.Linear):
    """A linear without bias that computes with the ternary of its latent weight."""

    def forward(self, input: Tensor) -> Tensor:
        latent = self.weight
        straight_through = latent - latent.detach()  # zero, with the gradient of `latent`
        return F.linear(input, ternary(latent.detach()) + straight_through)


def make_ternary(model: CausalLM) -> None:
    """Puts a `TernaryLinear` over the weight of each of the layers' linears, in place."""
    for block in model.model.layers.modules():
        for name, child in list(block.named_children()):
            if type(child) is nn.Linear:
                linear = TernaryLinear(child.in_features, child.out_features, bias=False)
                linear.weight = child.weight
                setattr(block, name, linear)


def ternary_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A latent state dict with the layers' matrices made ternary; what is published."""
    return {
        name: ternary(tensor) if _is_linear(name, tensor) else tensor
        for name, tensor in weights.items()
    }


def _is_linear(name: str, tensor: Tensor) -> bool:
    return tensor.ndim == 2 and ".layers." in name
