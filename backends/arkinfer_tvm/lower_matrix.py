"""Lowers what reads matrices: products and look-ups, and what is fused with products.

A norm goes into the kernel that rounds its result, a residual sum or a gate into the product that
it uses, each where nobody else looks at what vanishes. Knows no other op, and no memory.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from arkinfer import ir
from arkinfer_tvm import kernels
from arkinfer_tvm.cost import MOST_ROWS
from arkinfer_tvm.layout import Stream

if TYPE_CHECKING:
    from arkinfer_tvm.lower import Home
    from arkinfer_tvm.program import Operand
    from arkinfer_tvm.stored import Stored

_PRODUCTS = ("nn.linear", "quant.linear")
TALL = 128
"""Rows of x that a job has at most, in programs for more than one token."""
SHORT = 64
"""Rows up to which a job has one tile: its slab stays in a cache for the next one, and nothing is
unpacked."""
SPARE = MOST_ROWS
"""Rows that tiles may compute beyond those of a step."""


@dataclass(frozen=True)
class _Normed:
    """A norm that a product's preparation will do."""

    x: ir.Value
    gain: ir.Weight
    kernel: kernels.Norm


class MatrixLowering:
    """The part of `Lowering` that knows matrices."""

    function: ir.Function
    stored: Stored
    _homes: dict[ir.Value, Home]
    _ports: dict[ir.Value, str]

    def __init__(self) -> None:
        self._users = self.function.users()
        self._norms: dict[ir.Value, _Normed] = {}
        self._waiting: dict[ir.Value, ir.Node] = {}
        self._inside: dict[ir.Value, list[ir.Value]] = {}
        self._prepared: dict[tuple[ir.Value, kernels.Kernel, str], dict[str, Home]] = {}

    @abstractmethod
    def _buffer(
        self, count: ir.Dim, width: int, dtype: str = "f32", port: str = "", spare: int = 0
    ) -> Home: ...

    @abstractmethod
    def _fresh(self, value: ir.Value, port: str = "") -> Home: ...

    @abstractmethod
    def _call(self, kernel: kernels.Kernel, height: ir.Dim, /, **given: Any) -> None: ...

    @abstractmethod
    def _rowwise(self, node: ir.Node, kernel: kernels.Kernel, **given: Any) -> None: ...

    @abstractmethod
    def _dense(self, weight: ir.Weight) -> Operand: ...

    @abstractmethod
    def _tensor(self, name: str) -> Operand: ...

    @abstractmethod
    def _most(self, count: ir.Dim) -> int: ...

    # --- look-ups ---

    def _nn_embedding(self, node: ir.Node) -> None:
        tokens, table = node.values[0], node.weights[0]
        scale = number(node, "scale")
        if self.stored.is_multiplied(table):
            self._look_up(node)
            return
        assert isinstance(table.type, ir.TensorType)
        width = cast(int, table.type.shape[1])
        kernel = kernels.Embedding(width, table.type.dtype, scale)
        self._rowwise(node, kernel, tokens=tokens, table=self._dense(table))

    def _quant_embedding(self, node: ir.Node) -> None:
        self._look_up(node)

    def _look_up(self, node: ir.Node) -> None:
        tokens, table = node.values[0], node.weights[0]
        kernel = kernels.StreamEmbedding(self.stored.stream(table), number(node, "scale"))
        given = {"weight": self._tensor(self.stored.packed(table)), **self._order(table)}
        self._rowwise(node, kernel, tokens=tokens, **given)

    # --- products ---

    def _nn_rms_norm(self, node: ir.Node) -> None:
        x, gain = node.values[0], node.weights[0]
        assert isinstance(gain.type, ir.TensorType)
        norm = kernels.Norm(gain.type.dtype, number(node, "eps"))
        if node.result not in self._ports and all(map(_rounds, self._users[node.result])):
            self._norms[node.result] = _Normed(x, gain, norm)
            return
        kernel = kernels.RMSNorm(self._homes[x].rows, gain.type.dtype, norm.eps)
        self._rowwise(node, kernel, x=x, weight=self._dense(gain))

    def _nn_linear(self, node: ir.Node) -> None:
        self._product(node)

    def _quant_linear(self, node: ir.Node) -> None:
        self._product(node)

    def _product(self, node: ir.Node) -> None:
        """Waits for its only user, if that can finish it."""
        users = self._users[node.result]
        if node.result not in self._ports and len(users) == 1 and self._finishes(users[0], node):
            self._waiting[node.result] = node
            return
        self._multiply(node.result, [node], kernels.Finish())

    def _finishes(self, user: ir.Node, node: ir.Node) -> bool:
        """Whether the user of a product is fused with it."""
        if user.op == "nn.add":
            return user.values[1] is node.result and user.values[0] is not node.result
        return user.op == "nn.silu_mul" and self._gates(user)

    def _gates(self, user: ir.Node) -> bool:
        """Whether both operands of a gate are products of one input, used by it alone, alike."""
        made = {node.result: node for node in self.function.nodes if node.op in _PRODUCTS}
        pair = [made.get(value) for value in user.values]
        if None in pair or pair[0] is pair[1]:
            return False
        gate, up = (cast(ir.Node, node) for node in pair)
        alone = all(len(self._users[n.result]) == 1 and n.result not in self._ports
                    for n in (gate, up))  # fmt: skip
        same = gate.values[0] is up.values[0] and gate.attributes == up.attributes
        streams = [self.stored.stream(n.weights[0]) for n in (gate, up)]
        ordered = isinstance(streams[0], Stream) and streams[0].order
        return alone and same and gate.op == up.op and streams[0] == streams[1] and not ordered

    def _nn_silu_mul(self, node: ir.Node) -> None:
        gate, up = node.values
        if gate in self._waiting and up in self._waiting:
            pair = [self._waiting.pop(value) for value in (gate, up)]
            self._multiply(node.result, pair, kernels.Gate())
            return
        kernel = kernels.SiluMul(self._homes[gate].rows, self._homes[up].rows)
        self._rowwise(node, kernel, gate=gate, up=up)

    def _nn_add(self, node: ir.Node) -> None:
        a, b = node.values
        scale = number(node, "scale")
        if b in self._waiting:
            finish = kernels.AddTo(self._homes[a].rows, scale)
            self._multiply(node.result, [self._waiting.pop(b)], finish, residual=a)
            return
        kernel = kernels.Add(self._homes[a].rows, self._homes[b].rows, scale)
        self._rowwise(node, kernel, residual=a, branch=b)

    def _multiply(
        self, result: ir.Value, nodes: list[ir.Node], finish: kernels.Finish, **given: Any
    ) -> None:
        """The product of a node, or of two with the same input."""
        x, weight = nodes[0].values[0], nodes[0].weights[0]
        stream = self.stored.stream(weight)
        matrices = [self._tensor(self.stored.packed(node.weights[0])) for node in nodes]
        given |= dict(zip(("weight", "other"), matrices, strict=False))
        count = result.tensor.shape[0]
        rows = self._most(count)
        most = 1 if rows == 1 else TALL
        if isinstance(stream, Stream) and _rounds(nodes[0]):
            given |= self._rounded(x, weight, stream, _digits(nodes[0]))
            digits = _digits(nodes[0])
            most = MOST_ROWS if 1 < rows <= SHORT else most * digits if rows == 1 else most
            kernel: kernels.Kernel = kernels.QuantLinear(stream, finish, most, digits)
        else:
            home = self._arranged(x, weight, stream) if isinstance(stream, Stream) else None
            home = home or self._homes[x]
            given["x"] = home
            kernel = kernels.FloatLinear(home.rows, stream, finish, most)
        made = self._fresh(result, self._ports.get(result, ""))
        self._call(kernel, count, **given, out=made)
        self._homes[result] = made
        vanished = [node.result for node in nodes if node.result is not result]
        self._inside[result] = [*([x] if x in self._norms else []), *vanished]

    def _rounded(
        self, x: ir.Value, weight: ir.Weight, stream: Stream, digits: int
    ) -> dict[str, Home]:
        """Codes, scales and sums of x; made once for all matrices that want the same."""
        normed = self._norms.get(x)
        home = self._homes[normed.x if normed else x]
        inputs = kernels.Inputs.of(stream, digits)
        kernel = kernels.Quantize(home.rows, inputs, normed.kernel if normed else None)
        order = self._order(weight)
        key = (x, kernel, weight.name if order else "")
        if key not in self._prepared:
            made = {
                "codes": self._buffer(home.count, digits * inputs.stride, "i8", spare=SPARE),
                "scales": self._buffer(home.count, digits * inputs.scales, spare=SPARE),
                "sums": self._buffer(home.count, digits * inputs.scales, "i32", spare=SPARE),
            }
            gain = {"gain": self._dense(normed.gain)} if normed else {}
            self._call(kernel, home.count, x=home, **gain, **order, **made)
            self._prepared[key] = made
        return self._prepared[key]

    def _arranged(self, x: ir.Value, weight: ir.Weight, stream: Stream) -> Home:
        """x in the order of the codes."""
        home, inputs = self._homes[x], kernels.Inputs.of(stream)
        if inputs.plain:
            return home
        kernel = kernels.Arrange(home.rows, inputs)
        order = self._order(weight)
        key = (x, kernel, weight.name if order else "")
        if key not in self._prepared:
            made = self._buffer(home.count, stream.inputs)
            self._call(kernel, home.count, x=home, **order, out=made)
            self._prepared[key] = {"x": made}
        return self._prepared[key]["x"]

    def _order(self, weight: ir.Weight) -> dict[str, Operand]:
        stream = self.stored.stream(weight)
        ordered = isinstance(stream, Stream) and stream.order
        return {"order": self._tensor(self.stored.order(weight))} if ordered else {}


def _digits(node: ir.Node) -> int:
    """Rows of codes for each row of the input of a product."""
    return 2 if node.attributes["activations"] == "i16" else 1


def _rounds(node: ir.Node) -> bool:
    """Whether a node rounds its input to int8."""
    return node.op == "quant.linear" and node.attributes["activations"] != "f32"


def number(node: ir.Node, name: str) -> float:
    """A float attribute."""
    value = node.attributes[name]
    assert isinstance(value, (int, float))
    return float(value)
