"""Quantization methods: a matrix in, packing's canonical form out. Knows no IR and no model."""

from arkinfer.quant.rtn import round_to_nearest
from arkinfer.quant.spec import QuantSpec, parse_quant

__all__ = ["QuantSpec", "parse_quant", "round_to_nearest"]
