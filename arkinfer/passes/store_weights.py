"""Matrices that are not quantized are stored in one dtype. Knows no model.

Norm weights and tables of angles stay as they are: they are small, and their precision counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from arkinfer.errors import UsageError
from arkinfer.ir import Derived, Module, TensorType, Weight
from arkinfer.ir.types import FLOATS
from arkinfer.passes.symbols import derived

OPS = ("nn.linear", "nn.embedding")


@dataclass(frozen=True)
class StoreWeights:
    """Option: an IR dtype."""

    dtype: str

    name = "store-weights"

    def run(self, module: Module) -> bool:
        if self.dtype not in FLOATS:
            raise UsageError(
                f'Weights cannot be stored as "{self.dtype}"', "", f"Use {', '.join(FLOATS)}"
            )
        changed = False
        for node in module.nodes():
            weight = node.operands[1] if node.op in OPS else None
            if not isinstance(weight, Weight) or not isinstance(weight.type, TensorType):
                continue
            if weight.type.dtype == self.dtype:
                continue
            source = Derived("cast", (weight.name,), (("to", self.dtype),))
            kind = TensorType(self.dtype, weight.type.shape)
            cast = derived(module, Weight(f"{weight.name}.{self.dtype}", kind, source))
            node.operands[1] = module.add_weight(cast)
            changed = True
        return changed
