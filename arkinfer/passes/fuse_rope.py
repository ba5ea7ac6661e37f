"""x * cos + rotated(x) * sin becomes `nn.rope`. Knows no model.

The tables are followed up to the positions and the frequencies that they come from, in whatever
order they were doubled, reshaped and multiplied by LongRoPE's factor; the proof checks the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

from arkinfer.ir import Module, Node, Operand, TensorType, Value, Weight
from arkinfer.passes.match import NoMatch, Pattern, Uses, is_float_cast, last_axis, need
from arkinfer.passes.rewrite import Rewrite, one_node, rewrite_at

NOT_HALVES = "what the sine multiplies is not the two halves of x, joined along the last axis"


@dataclass(frozen=True)
class FuseRope:
    name = "fuse-rope"

    def run(self, module: Module) -> bool:
        return rewrite_at(module, self.name, ("tensor.add",), _attempt)


@dataclass(frozen=True)
class _Table:
    """cos or sin of positions * inv_freq, times a factor."""

    op: str
    factor: float
    angle: Operand
    nodes: tuple[Node, ...]


def _attempt(uses: Uses, total: Node) -> Rewrite | None:
    turned = [_turned(operand) for operand in total.operands]
    known = [t for t in turned if t is not None]
    if not known:
        return None  # a sum of something else
    need(len(known) == 2, "only one of the two terms is multiplied by a cosine or a sine")
    by_op = {table.op: (product, x, table) for product, x, table in known}
    need(
        len(by_op) == 2, f"both terms are multiplied by a {known[0][2].op.removeprefix('tensor.')}"
    )
    plain, x, cos = by_op["tensor.cos"]
    crossed, swapped, sin = by_op["tensor.sin"]
    pattern = Pattern(uses, total)
    pattern.own += [plain, crossed]
    need(isinstance(x, Value) and len(x.type.shape) == 3, f"what is rotated is {x.type}")
    _need_rotated(pattern, swapped, x)
    need(cos.factor == sin.factor, f"cosine and sine are scaled by {cos.factor} and {sin.factor}")
    pattern.shared += [*cos.nodes, *sin.nodes]
    positions, inv_freq = _angle(pattern, cos.angle)
    same = _angle(pattern, sin.angle) == (positions, inv_freq)
    need(same, "cosine and sine are of different angles")
    fused = one_node(total, "nn.rope", x, positions, inv_freq, factor=cos.factor)
    return Rewrite(pattern, [fused], {total.result: fused.result}, total)


def _turned(operand: Operand) -> tuple[Node, Operand, _Table] | None:
    """A product with a table: the product, the other factor, the table."""
    product = operand.producer if isinstance(operand, Value) else None
    if product is None or product.op != "tensor.mul":
        return None
    a, b = product.operands
    for x, y in ((a, b), (b, a)):
        table = _table(y)
        if table is not None:
            return product, x, table
    return None


def _table(operand: Operand) -> _Table | None:
    nodes: list[Node] = []
    factor = 1.0
    while isinstance(operand, Value) and operand.producer is not None:
        node = operand.producer
        nodes.append(node)
        if node.op in ("tensor.cos", "tensor.sin"):
            return _Table(node.op, factor, node.operands[0], tuple(nodes))
        if node.op == "tensor.scale":
            by = node.attributes["by"]
            assert isinstance(by, float | int)
            factor *= by
        elif not _rearranges(node):
            break
        operand = node.operands[0]
    return None


def _rearranges(node: Node) -> bool:
    """Does the node only move or repeat the elements of its first operand?"""
    doubles = node.op == "tensor.concat" and len(set(map(id, node.operands))) == 1
    return doubles or node.op == "tensor.reshape" or is_float_cast(node)


def _angle(pattern: Pattern, operand: Operand) -> tuple[Value, Weight]:
    """The positions i64 [T] and the frequencies [D/2] whose product the angle is."""
    otherwise = "the angles are not positions times one frequency for each pair"
    while isinstance(operand, Value) and operand.producer is not None:
        node = operand.producer
        pattern.shared.append(node)
        if node.op == "tensor.mul":
            a, b = (_origin(pattern, each) for each in node.operands)
            if isinstance(a, Weight):
                a, b = b, a
            if isinstance(a, Value) and isinstance(b, Weight) and _are_indices(a):
                need(len(b.type.shape) == 1, otherwise)
                return a, b
            break
        need(_rearranges(node), f"{otherwise}, but come from {node.op}")
        operand = node.operands[0]
    raise NoMatch(otherwise)


def _origin(pattern: Pattern, operand: Operand) -> Operand:
    """What was cast and reshaped."""
    while isinstance(operand, Value) and operand.producer is not None:
        node = operand.producer
        if node.op not in ("tensor.cast", "tensor.reshape"):
            break
        pattern.shared.append(node)
        operand = node.operands[0]
    return operand


def _are_indices(value: Value) -> bool:
    kind = value.type
    return isinstance(kind, TensorType) and kind.dtype == "i64" and len(kind.shape) == 1


def _need_rotated(pattern: Pattern, operand: Operand, x: Operand) -> None:
    """`operand` is (-second half of x, first half of x), along the last axis."""
    joined = pattern.producer(operand, "tensor.concat", NOT_HALVES)
    two = len(joined.operands) == 2 and last_axis(joined.result, joined.attributes["axis"])
    need(two, NOT_HALVES)
    first, second = (_made(o) for o in joined.operands)
    need("tensor.neg" in (first, second), "neither half is negated")
    need(first != second, "both halves are negated")
    need(first == "tensor.neg", "the halves are swapped the other way round: (x2, -x1)")
    negated = pattern.producer(joined.operands[0], "tensor.neg", "the first half is not negated")
    size = x.type.shape[-1]
    need(isinstance(size, int) and size % 2 == 0, f"what is rotated is {x.type}")
    assert isinstance(size, int)
    for part, start in ((negated.operands[0], size // 2), (joined.operands[1], 0)):
        half = pattern.producer(part, "tensor.slice", NOT_HALVES)
        need(half.operands[0] is x, "the halves are not those of x")
        found = half.attributes
        right = last_axis(x, found["axis"]) and found["start"] == start
        need(
            right and found["stop"] == start + size // 2,
            f"a half is {found['start']}:{found['stop']} of axis {found['axis']}, not "
            f"{start}:{start + size // 2} of the last",
        )


def _made(operand: Operand) -> str:
    return operand.producer.op if isinstance(operand, Value) and operand.producer else ""
