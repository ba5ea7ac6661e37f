"""Three linears of one input that each feed heads become one, whose heads are sliced.

Knows no model: the weights are stacked in the order of the linears, whatever they are called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from arkinfer import ir
from arkinfer.ir import Builder, Derived, Module, Node, QuantizedType, TensorType, Value, Weight
from arkinfer.ir.types import shape_text
from arkinfer.passes.match import NoMatch, Pattern, Uses, need
from arkinfer.passes.rewrite import Rewrite, rewrite_at
from arkinfer.passes.symbols import common_path, derived, joined_name

LINEARS = ("nn.linear", "quant.linear")


@dataclass(frozen=True)
class FuseQkv:
    name = "fuse-qkv"

    def run(self, module: Module) -> bool:
        return rewrite_at(module, self.name, LINEARS, _Fuse(module).attempt)


@dataclass(frozen=True)
class _Fuse:
    module: Module

    def attempt(self, uses: Uses, first: Node) -> Rewrite | None:
        (x,) = first.values
        linears = [node for node in uses.nodes(x) if node.op in LINEARS]
        heads = [_heads(uses, node) for node in linears]
        if linears[0] is not first or len(linears) < 3 or not any(heads):
            return None  # seen before, or not the inputs of an attention
        if not all(heads):
            raise NoMatch("not all linears of its input feed a reshape into heads alone")
        need(len(linears) == 3, f"{len(linears)} linears of its input feed heads, not three")
        reshapes = [node for node in heads if node is not None]
        shapes = [cast("tuple[int, ...]", node.result.tensor.shape) for node in reshapes]
        same = all(s[:-2] == shapes[0][:-2] and s[-1] == shapes[0][-1] for s in shapes)
        need(same, f"the heads have different shapes: {', '.join(map(shape_text, shapes))}")
        pattern = Pattern(uses, first)
        pattern.own += [*linears[1:], *reshapes]
        stacked = self._stack([node.weights for node in linears])
        b = Builder(ir.infer_types)
        b.loc = common_path([node.loc for node in linears])
        counts = [shape[-2] for shape in shapes]
        packed = b.add(first.op, x, stacked, **first.attributes)
        shape = (*shapes[0][:-2], sum(counts), shapes[0][-1])
        packed = b.add("tensor.reshape", packed, shape=shape)
        results: dict[Value, Value] = {}
        start = 0
        for reshape, count in zip(reshapes, counts, strict=True):
            axis, stop = len(shape) - 2, start + count
            part = b.add("tensor.slice", packed, axis=axis, start=start, stop=stop)
            results[reshape.result] = part
            start = stop
        return Rewrite(pattern, b.nodes, results, first)

    def _stack(self, operands: list[list[Weight]]) -> Weight:
        need(all(len(each) == 1 for each in operands), "a matrix is computed")
        weights = [each[0] for each in operands]
        need(len({w.name for w in weights}) == 3, "the linears share a matrix")
        kinds = [weight.type for weight in weights]
        rows = sum(cast(int, kind.shape[0]) for kind in kinds)
        names = tuple(weight.name for weight in weights)
        kind = _stacked_type(kinds, rows)
        return derived(self.module, Weight(joined_name(names), kind, Derived("concat", names)))


def _stacked_type(kinds: list[TensorType | QuantizedType], rows: int) -> TensorType | QuantizedType:
    forms = [_form(kind) for kind in kinds]
    different = list(dict.fromkeys(forms))
    need(len(different) == 1, f"the matrices are of different dtypes: {' and '.join(different)}")
    first = kinds[0]
    if isinstance(first, QuantizedType):
        need(not first.scheme.act_order, "each matrix has its inputs in an order of its own")
        return QuantizedType(first.scheme, (rows, first.shape[1]))
    return TensorType(first.dtype, (rows, first.shape[1]))


def _form(kind: TensorType | QuantizedType) -> str:
    return kind.scheme.name if isinstance(kind, QuantizedType) else kind.dtype


def _heads(uses: Uses, linear: Node) -> Node | None:
    """The reshape into heads that alone uses a linear."""
    node = uses.only(linear.result)
    if node is None or node.op != "tensor.reshape":
        return None
    before, after = linear.result.tensor.shape, node.result.tensor.shape
    splits = len(after) == len(before) + 1 and after[:-2] == before[:-1]
    return node if splits and all(isinstance(d, int) for d in after[-2:]) else None
