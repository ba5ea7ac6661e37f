"""x * cos + rotate_half(x) * sin becomes nn.rope; its tables come from integer positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from arkinfer import ir
from arkinfer.passes.fusion import Fusion, Rewrite, Scope, common_loc, producer
from arkinfer.passes.proof import NoMatch


@dataclass(frozen=True)
class FuseRope(Fusion):
    """Anchors on a sum of two products, one of them with a concatenation of two halves.

    How the tables come about is not matched node by node: everything between them, the positions
    and the frequencies is taken along, and executing both sides tells whether it means the same.
    """

    name = "fuse-rope"

    def find(self, node: ir.Node, scope: Scope) -> Rewrite | None:
        parts = _parts(node)
        if parts is None:
            return None
        plain, turned, concat = parts
        x = _halves(concat)
        if x not in plain.values:
            raise NoMatch("the value that is multiplied by cos is not the one that is rotated")
        cos = _other(plain, x)
        sin = _other(turned, concat.result)
        tables, positions, frequencies = _tables([cos, sin])
        factor = _factor(tables)
        own = [concat, *(v.producer for v in concat.values if v.producer), plain, turned, node]
        negated = concat.values[0].producer
        assert negated is not None
        own += [v.producer for v in negated.values if v.producer]
        nodes = scope.sorted([*own, *tables])

        def build(b: ir.Builder, inputs: Sequence[ir.Value]) -> list[ir.Value]:
            return [b.add("nn.rope", inputs[0], inputs[1], frequencies, factor=factor)]

        own = scope.sorted(own)
        return Rewrite(nodes, [x, positions], [node.result], build, own=own, loc=common_loc(own))


def _parts(node: ir.Node) -> tuple[ir.Node, ir.Node, ir.Node] | None:
    """The product with cos, the product with sin, and the concatenation that sin multiplies."""
    if node.op != "tensor.add" or len(node.values) != 2:
        return None
    products = [v.producer for v in node.values if v.producer and v.producer.op == "tensor.mul"]
    if len(products) != 2:
        return None
    for plain, turned in (products, products[::-1]):
        for value in turned.values:
            if value.producer is not None and value.producer.op == "tensor.concat":
                return plain, turned, value.producer
    return None


def _halves(concat: ir.Node) -> ir.Value:
    """x of concat(-x[half:], x[:half])."""
    if len(concat.values) != 2:
        raise NoMatch(f"the rotation joins {len(concat.values)} parts, not 2")
    negated = producer(concat.values[0], "tensor.neg", "the first half of the rotation")
    upper = producer(negated.operands[0], "tensor.slice", "what is negated")
    lower = producer(concat.values[1], "tensor.slice", "the second half of the rotation")
    x = upper.values[0]
    if lower.values[0] is not x:
        raise NoMatch("the halves of the rotation are of two values")
    size = x.type.shape[-1]
    rank = len(x.type.shape)
    if rank != 3 or not isinstance(size, int):
        raise NoMatch(f"what is rotated is {x.type}, not [tokens, heads, head_dim]")
    for part, start, stop in ((upper, size // 2, size), (lower, 0, size // 2)):
        found = part.attributes["axis"], part.attributes["start"], part.attributes["stop"]
        if found not in ((2, start, stop), (-1, start, stop)):
            raise NoMatch(f"a half of the rotation is {found[1]}:{found[2]}, not {start}:{stop}")
    return x


def _other(product: ir.Node, value: ir.Value) -> ir.Value:
    rest = [v for v in product.values if v is not value]
    if len(rest) != 1:
        raise NoMatch("a product of the rotation has not two different factors")
    return rest[0]


def _tables(roots: Sequence[ir.Value]) -> tuple[list[ir.Node], ir.Value, ir.Weight]:
    """The nodes that compute cos and sin, down to integer positions and a weight."""
    nodes: dict[int, ir.Node] = {}
    positions: dict[ir.Value, None] = {}
    weights: dict[str, ir.Weight] = {}
    waiting = list(roots)
    while waiting:
        value = waiting.pop()
        if isinstance(value.type, ir.TensorType) and value.type.dtype == "i64":
            root = _unreshaped(value, nodes)
            positions[root] = None
            continue
        node = value.producer
        if node is None:
            raise NoMatch(f"cos or sin comes from the input %{value.name}, not from positions")
        nodes[id(node)] = node
        weights |= {w.name: w for w in node.weights}
        waiting += node.values
    if len(positions) != 1 or len(weights) != 1:
        raise NoMatch(
            f"cos and sin come from {len(positions)} positions and {len(weights)} weights, not "
            "from one of each"
        )
    return list(nodes.values()), next(iter(positions)), next(iter(weights.values()))


def _unreshaped(value: ir.Value, nodes: dict[int, ir.Node]) -> ir.Value:
    """Positions [T] behind a view of them."""
    while value.producer is not None and value.producer.op == "tensor.reshape":
        nodes[id(value.producer)] = value.producer
        value = value.producer.values[0]
    return value


def _factor(tables: Sequence[ir.Node]) -> float:
    """What cos and sin are both multiplied by."""
    factors = {n.attributes["by"] for n in tables if n.op == "tensor.scale"}
    if len(factors) > 1:
        raise NoMatch("cos and sin are multiplied by different constants")
    (factor,) = factors or {1.0}
    assert isinstance(factor, float | int)
    return float(factor)
