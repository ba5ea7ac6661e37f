"""Which tensors of a checkpoint a calibrated method replaces. Knows no method and no numbers."""

from __future__ import annotations

from dataclasses import replace

from arkinfer.errors import UnsupportedError
from arkinfer.models.config import ModelConfig
from arkinfer.packing import Scheme


def schemes_for(config: ModelConfig, scheme: Scheme) -> dict[str, Scheme]:
    """The same for every linear of every block, by the names in the checkpoint.

    Raises:
        UnsupportedError: its group does not divide the inputs of a linear; names it.
    """
    shapes = config.tensor_shapes()
    found: dict[str, Scheme] = {}
    for name, shape in shapes.items():
        if name.startswith("model.layers.") and len(shape) == 2:
            try:
                scheme.group_size(shape[1])
            except UnsupportedError as error:
                raise UnsupportedError(
                    f"{name} cannot be quantized to {scheme.name}: it has {shape[1]} inputs",
                    error.why[:1].upper() + error.why[1:],
                    "Choose another group size, or row",
                ) from None
            wide = scheme.group in (0, shape[1])
            found[name] = replace(scheme, act_order=scheme.act_order and not wide)
    return found


def norms_of(config: ModelConfig) -> list[str]:
    """The norms in front of linears, which smoothing changes."""
    return [name for name in config.tensor_shapes() if name.endswith("layernorm.weight")]
