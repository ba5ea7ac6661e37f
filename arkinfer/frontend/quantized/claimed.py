"""What config.json says of quantized weights that are not there yet, for a plan.

A build never asks it: there, tensors tell. Knows no file.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from arkinfer.errors import UnsupportedError
from arkinfer.frontend.quantized.matrix import Facts
from arkinfer.packing import Scheme

_LAYERS = "model.layers."


def claimed(facts: Facts, names: Iterable[str]) -> dict[str, Scheme]:
    """The scheme of each matrix that is quantized if all are quantized alike.

    Args:
        facts: `quantization_config` of config.json; MLX's `quantization`.
        names: of the model's matrices.

    Raises:
        UnsupportedError: it does not say with how many bits.
    """
    method = str(facts["quant_method"])
    scheme = _scheme(method, facts)
    return {name: scheme for name in names if _is_quantized(name, method, facts)}


def _is_quantized(name: str, method: str, facts: Facts) -> bool:
    """MLX quantizes embedding and head, the others the layers' linears; GPTQ the head if told."""
    if name.startswith(_LAYERS) or method == "mlx":
        return True
    return name.startswith("lm_head") and facts.get("lm_head") is True


def _scheme(method: str, facts: Facts) -> Scheme:
    said = _of_all(facts) if method == "compressed-tensors" else facts
    bits = _number(said, "bits", "w_bit", "num_bits")
    group = _number(said, "group_size", "q_group_size") or 0
    if bits is None or not 2 <= bits <= 8:
        raise UnsupportedError(
            f"config.json does not say with how many bits {method} quantized the weights",
            "A plan reads it there, as the weights are not here",
            "Download the weights, or plan from the unquantized checkpoint.",
        )
    symmetric = said.get("sym", said.get("symmetric", not said.get("zero_point", method == "awq")))
    offset = "min" if method == "mlx" else "none" if symmetric else "zero"
    ordered = said.get("desc_act") is True or bool(said.get("actorder"))
    return Scheme(bits, max(group, 0), offset, ordered and group > 0)


def _of_all(facts: Facts) -> Facts:
    """The first group's weights; recipes that quantize all linears alike have one."""
    groups: Any = facts.get("config_groups")
    first: Any = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    weights: Any = first.get("weights") if isinstance(first, dict) else None
    return cast("Facts", weights) if isinstance(weights, dict) else {}


def _number(facts: Facts, *keys: str) -> int | None:
    found = next((facts[key] for key in keys if facts.get(key) is not None), None)
    return found if type(found) is int else None
