"""Declares quantized weights: nn.linear -> quant.linear, nn.embedding -> quant.embedding.

No number is touched here: the new symbols are rules (`rtn`) that the build evaluates by rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from arkinfer import ir
from arkinfer.errors import UnsupportedError
from arkinfer.ir import Derived, QuantizedType, Weight
from arkinfer.packing import Scheme, parse_scheme


@dataclass(frozen=True)
class Quantize:
    """Round-to-nearest, with embedding and head set apart from the other linears.

    The head is the linear whose result is the function's first one; tied to the embedding, both
    share one quantized matrix.

    Options:
        linear: scheme of the linears; None: they stay.
        embedding: scheme of embedding and head; None: they stay.
        clip: search the clipping range that loses least.
    """

    name = "quantize"
    linear: str | None = None
    embedding: str | None = None
    clip: bool = True

    def run(self, module: ir.Module) -> bool:
        changed = False
        linear, embedding = (_scheme(name) for name in (self.linear, self.embedding))
        for function in module.functions.values():
            for node in function.nodes:
                if node.op == "nn.embedding":
                    changed |= self._replace(node, embedding, "quant.embedding", module)
                elif node.op == "nn.linear":
                    head = node.result is function.outputs[0]
                    scheme = embedding if head else linear
                    changed |= self._replace(node, scheme, "quant.linear", module)
        return changed

    def _replace(self, node: ir.Node, scheme: Scheme | None, op: str, module: ir.Module) -> bool:
        weight = node.operands[1]
        if scheme is None or not isinstance(weight, Weight):
            return False
        rows, columns = weight.type.shape
        assert isinstance(rows, int)
        assert isinstance(columns, int)
        try:
            scheme.group_size(columns)
        except UnsupportedError as error:
            raise UnsupportedError(f"{node.loc}: {error.what}", error.why, error.fix) from None
        options: tuple[tuple[str, ir.Attribute], ...] = (("scheme", scheme.name),)
        if not self.clip:
            options += (("clip", False),)
        kind = QuantizedType(scheme, (rows, columns))
        source = Derived("rtn", (weight.name,), options)
        name = f"{weight.name}.{scheme.name}"
        node.op, node.operands[1] = op, module.add_weight(Weight(name, kind, source))
        return True


def _scheme(name: str | None) -> Scheme | None:
    return None if name is None else parse_scheme(name)
