"""Linears and embeddings read the quantized form of their matrix where the module declares one.

A checkpoint that is quantized already, a calibrated method and a recipe all declare such forms:
`@w.int4-g128 = stored(@w) {scheme = "int4-g128"}`. Knows no rule and no format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from arkinfer.ir import Derived, Module, QuantizedType, TensorType, Weight
from arkinfer.packing import Scheme
from arkinfer.passes.rewrite import read_quantized

OPS = ("nn.linear", "nn.embedding")


def declare(module: Module, forms: Mapping[str, tuple[str, Scheme]]) -> None:
    """Declares quantized forms of matrices, for the pass to use.

    Args:
        module: it declares the matrices themselves.
        forms: by the names of these, how the form comes from its matrix, and its scheme. By the
            rule "stored" nothing is left to compute: the numbers are there.
    """
    for name, (rule, scheme) in forms.items():
        shape = cast("tuple[int, int]", module.weights[name].type.shape)
        source = Derived(rule, (name,), (("scheme", scheme.name),))
        form = Weight(f"{name}.{scheme.name}", QuantizedType(scheme, shape), source)
        module.add_weight(form)


@dataclass(frozen=True)
class UseQuantized:
    name = "use-quantized"

    def run(self, module: Module) -> bool:
        declared = {
            weight.source.inputs[0]: weight
            for weight in module.weights.values()
            if isinstance(weight.type, QuantizedType) and weight.source
        }
        changed = False
        for node in module.nodes():
            matrix = node.operands[1] if node.op in OPS else None
            if not isinstance(matrix, Weight) or not isinstance(matrix.type, TensorType):
                continue
            form = declared.get(matrix.name)
            if form is None:
                continue
            if form.type.shape != matrix.type.shape:
                module.remark(self.name, node, f"@{form.name} is {form.type}")
                continue
            read_quantized(node, form)
            changed = True
        return changed
