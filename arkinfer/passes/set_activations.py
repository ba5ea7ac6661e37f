"""Says what products with quantized matrices take in place of their input. Knows no backend."""

from __future__ import annotations

from dataclasses import dataclass

from arkinfer.errors import UsageError
from arkinfer.ir import Module
from arkinfer.ir.ops.quant import ACTIVATIONS


@dataclass(frozen=True)
class SetActivations:
    """Option: one of the op's own names, such as f32."""

    dtype: str

    name = "set-activations"

    def run(self, module: Module) -> bool:
        if self.dtype not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise UsageError(f'Activations cannot be "{self.dtype}"', "", f"Use {known}")
        changed = False
        for node in module.nodes():
            if node.op == "quant.linear" and node.attributes["activations"] != self.dtype:
                node.attributes["activations"] = self.dtype
                changed = True
        return changed
