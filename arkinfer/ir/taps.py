"""Where a step has its residual stream: after each layer, and normed for the head. By structure.

The head is what gives the logits, its input is a norm of rows of the stream, and the stream is a
chain of `nn.add`s back to the embedding. Knows no torch path and runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from arkinfer.ir.core import Function, Node, Value

FINAL = "final"
"""The tap of what the head multiplies."""


@dataclass(frozen=True)
class Stream:
    """The residual stream of a step.

    Attributes:
        layers: the stream after each layer, [T, hidden].
        norm: of the stream after the last one; what it makes of all tokens' rows is what the head
            multiplies, be they wanted or not.
    """

    layers: tuple[Value, ...]
    norm: Node

    @property
    def taps(self) -> tuple[str, ...]:
        """Names: "layers.0" …, and "final"."""
        return (*(f"layers.{i}" for i in range(len(self.layers))), FINAL)

    def place(self, tap: str) -> tuple[Value, Node | None]:
        """What a tap is: a value, and the norm of it unless that is None."""
        if tap == FINAL:
            return self.layers[-1], self.norm
        return self.layers[self.taps.index(tap)], None


def find_stream(function: Function) -> Stream | None:
    """The residual stream of a function; None: it has none, or one of another make."""
    if "logits" not in function.output_names:
        return None
    head = function.outputs[function.output_names.index("logits")].producer
    if head is None or not head.op.endswith(".linear"):
        return None
    norm = _without_take(head.values[0]).producer
    if norm is None or norm.op != "nn.rms_norm":
        return None
    sums: list[Node] = []
    value = _without_take(norm.values[0])
    while value.producer is not None and value.producer.op == "nn.add":
        sums.insert(0, value.producer)
        value = value.producer.values[0]
    if value.producer is None or not value.producer.op.endswith(".embedding"):
        return None
    layers = _layers(value, sums)
    return Stream(layers, norm) if layers else None


def _without_take(value: Value) -> Value:
    """What rows were taken of, if any were."""
    node = value.producer
    return node.values[0] if node is not None and node.op == "tensor.take" else value


def _layers(start: Value, sums: list[Node]) -> tuple[Value, ...]:
    """The last sum of each layer: a layer begins with what attention adds to the stream."""
    stream = {start, *(node.result for node in sums)}
    ends: list[Value] = []
    for node in sums:
        if _attends(node.values[1], stream):
            ends.append(node.result)
        elif ends:
            ends[-1] = node.result
        else:
            return ()
    return tuple(ends)


def _attends(branch: Value, stream: set[Value]) -> bool:
    """Whether attention is part of a branch, back to the stream that it began at."""
    waiting, seen = [branch], set(stream)
    while waiting:
        value = waiting.pop()
        node = value.producer
        if value in seen or node is None:
            continue
        seen.add(value)
        if node.op.startswith("attn."):
            return True
        waiting += node.values
    return False
