"""Quantization methods: a matrix in, packing's canonical form out. Knows no IR and no model."""

from arkinfer.quant.awq import round_for_outputs, smoothing
from arkinfer.quant.gptq import Feedback, feedback, gptq
from arkinfer.quant.moments import Moments
from arkinfer.quant.replacement import replacement
from arkinfer.quant.rtn import round_to_nearest
from arkinfer.quant.spec import QuantSpec, parse_quant

__all__ = [
    "Feedback",
    "Moments",
    "QuantSpec",
    "feedback",
    "gptq",
    "parse_quant",
    "replacement",
    "round_for_outputs",
    "round_to_nearest",
    "smoothing",
]
