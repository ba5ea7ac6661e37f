"""Decides the dtype in which matrices that are not quantized are stored."""

from __future__ import annotations

from dataclasses import dataclass

from arkinfer import ir
from arkinfer.ir import Derived, TensorType, Weight

MATRIX_OPS = ("nn.linear", "nn.embedding")


@dataclass(frozen=True)
class StoreWeights:
    """Casts the matrices of linears and embeddings; vectors stay as they are.

    Options:
        dtype: f32, f16 or bf16.
    """

    name = "store-weights"
    dtype: str = "f32"

    def run(self, module: ir.Module) -> bool:
        changed = False
        for node in module.nodes():
            weight = node.operands[1] if node.op in MATRIX_OPS else None
            if not isinstance(weight, Weight) or not isinstance(weight.type, TensorType):
                continue
            if weight.type.dtype == self.dtype:
                continue
            kind = TensorType(self.dtype, weight.type.shape)
            source = Derived("cast", (weight.name,), (("to", self.dtype),))
            name = f"{weight.name}.{self.dtype}"
            node.operands[1] = module.add_weight(Weight(name, kind, source))
            changed = True
        return changed
