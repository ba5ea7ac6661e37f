"""Linears and embeddings get quantized weights; the numbers are made when they are asked for.

Knows no method: a weight only says by which rule it comes. A head is a linear whose result leaves
the function, or that shares its matrix with an embedding; it goes with the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from arkinfer.errors import UnsupportedError, UsageError
from arkinfer.ir import (
    Attribute,
    Derived,
    Function,
    Module,
    Node,
    QuantizedType,
    TensorType,
    Weight,
)
from arkinfer.packing import Scheme, parse_scheme
from arkinfer.passes.rewrite import read_quantized
from arkinfer.passes.symbols import derived

METHODS = ("rtn",)
GROUPS = (128, 64, 32)


@dataclass(frozen=True)
class Quantize:
    """Options: schemes by name, `none` to leave as they are; how; and whether to clip."""

    linear: str | None = None
    embedding: str | None = None
    method: str = "rtn"
    clip: bool = True

    name = "quantize"

    def run(self, module: Module) -> bool:
        """Raises UnsupportedError where a group does not fit; names the torch path."""
        if self.method not in METHODS:
            raise UsageError(
                f'There is no quantization method "{self.method}"',
                "",
                f"Known: {', '.join(METHODS)}",
            )
        linear = parse_scheme(self.linear) if self.linear else None
        embedding = parse_scheme(self.embedding) if self.embedding else None
        changed = False
        for function in module.functions.values():
            heads = _heads(function)
            for node in function.nodes:
                outer = node in heads or node.op == "nn.embedding"
                scheme = embedding if outer else linear
                if node.op in ("nn.linear", "nn.embedding") and scheme is not None:
                    part = "embedding and head" if outer else "the linears"
                    changed |= self._quantize(module, node, scheme, part)
        return changed

    def _quantize(self, module: Module, node: Node, scheme: Scheme, part: str) -> bool:
        weight = node.operands[1]
        if not isinstance(weight, Weight) or not isinstance(weight.type, TensorType):
            module.remark(self.name, node, "its matrix is computed")
            return False
        shape = cast("tuple[int, int]", weight.type.shape)
        _need_fit(node, scheme, shape[1], part)
        options: list[tuple[str, Attribute]] = [("scheme", scheme.name)]
        if not self.clip:
            options.append(("clip", False))
        source = Derived(self.method, (weight.name,), tuple(options))
        named = Weight(f"{weight.name}.{scheme.name}", QuantizedType(scheme, shape), source)
        read_quantized(node, module.add_weight(derived(module, named)))
        return True


def _heads(function: Function) -> set[Node]:
    tables = {n.weights[0].name for n in function.nodes if n.op == "nn.embedding" and n.weights}
    outputs = set(function.outputs)
    return {
        node
        for node in function.nodes
        if node.op == "nn.linear"
        and (node.result in outputs or any(w.name in tables for w in node.weights))
    }


def _need_fit(node: Node, scheme: Scheme, columns: int, part: str) -> None:
    try:
        scheme.group_size(columns)
    except UnsupportedError as error:
        where = node.loc or f"a {node.op} without a torch path"
        raise UnsupportedError(
            f"{where} cannot be quantized to {scheme.name}: it has {columns} inputs",
            error.why[:1].upper() + error.why[1:],
            f"Choose {_choices(scheme, columns)} for {part}",
        ) from None


def _choices(scheme: Scheme, columns: int) -> str:
    """The same scheme in groups that fit, and none, which always does."""
    fitting: list[str] = []
    for group in (*GROUPS, 0):
        other = Scheme(scheme.bits, group, scheme.offset, scheme.act_order)
        try:
            other.group_size(columns)
        except UnsupportedError:
            continue
        fitting.append(other.name)
    return " or ".join([", ".join(fitting), "none"]) if fitting else "none"
