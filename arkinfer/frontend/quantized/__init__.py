"""Checkpoints whose matrices are quantized already: one reader per format.

Each finds its matrices by the tensors that are there, module by module, so that a checkpoint may
be quantized in part; config.json is only asked for what the tensors leave open, and whether it
contradicts them. Knows no model and no file.
"""

from __future__ import annotations

from collections.abc import Mapping

from arkinfer.errors import UnsupportedError
from arkinfer.frontend.quantized import awq, compressed_tensors, gptq, marlin, mlx
from arkinfer.frontend.quantized.matrix import Facts, Matrix, Read, Shapes
from arkinfer.models.config import QUANT_METHODS

__all__ = ["Facts", "Matrix", "Read", "Shapes", "find"]

_FORMATS = (gptq.find, awq.find, marlin.find, compressed_tensors.find, mlx.find)

_SIGNS = ("qweight", "weight_packed", "B", "weight_scale", "weight_scale_inv", "scales")
"""What lies beside or in place of a weight that is quantized."""


def find(
    shapes: Shapes, expected: Mapping[str, tuple[int, int]], facts: Facts, read: Read
) -> dict[str, Matrix]:
    """The matrices of a checkpoint that are quantized.

    Args:
        shapes: every tensor of the checkpoint.
        expected: [N, K] of the model's matrices by their `….weight` name.
        facts: `quantization_config` of config.json; MLX's `quantization`; or empty.
        read: gives rows of a tensor. Zero points and orders are read here, they tell the scheme.

    Raises:
        CheckpointError: tensors that contradict each other or the config.
        UnsupportedError: a matrix that is quantized in a way that is not read.
    """
    found: dict[str, Matrix] = {}
    for find_in in _FORMATS:
        found |= find_in(shapes, expected, facts, read)
    for name, shape in expected.items():
        if name not in found:
            _refuse_unknown(shapes, name, shape)
    return found


def _refuse_unknown(shapes: Shapes, name: str, shape: tuple[int, int]) -> None:
    module = name.removesuffix(".weight")
    dense = name in shapes and shapes[name][0].name in ("float32", "float16", "bfloat16")
    sign = next((f"{module}.{part}" for part in _SIGNS if f"{module}.{part}" in shapes), None)
    if dense or sign is None:
        return
    held = name if name in shapes else sign
    dtype, found = shapes[held]
    raise UnsupportedError(
        f"{held} is {dtype.name} {list(found)}",
        f"The matrix has the shape {list(shape)}, and no quantized form of it that is read "
        f"({', '.join(QUANT_METHODS)}) looks like that",
        "Use another release of the model; `arkinfer build --quant` quantizes the bf16 one.",
    )
