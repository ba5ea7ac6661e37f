"""Finding a pattern in a graph, and saying why it is not there. Knows no particular pattern.

A pattern is walked from an anchor node, up through producers and down through only users. The walk
keeps what it went through, for the proof and for the check that nobody else needs it.
"""

from __future__ import annotations

from collections.abc import Iterable

from arkinfer.ir import Function, Node, Operand, TensorType, Value
from arkinfer.ir.types import FLOATS


class NoMatch(Exception):
    """The pattern is not there; the text says what differs."""

    @property
    def reason(self) -> str:
        return str(self)


def need(condition: bool, otherwise: str) -> None:
    """Raises NoMatch unless the condition holds."""
    if not condition:
        raise NoMatch(otherwise)


class Uses:
    """Who uses the values of a function, as it was when this was made."""

    def __init__(self, function: Function) -> None:
        self._users = function.users()
        self._outputs = set(function.outputs)

    def nodes(self, value: Value) -> list[Node]:
        """Each user once, in execution order."""
        return list(dict.fromkeys(self._users.get(value, ())))

    def leaves(self, value: Value) -> bool:
        """Is it a result of the function?"""
        return value in self._outputs

    def only(self, value: Value) -> Node | None:
        """The one node that uses the value; None: there are more or none, or it leaves."""
        users = self.nodes(value)
        return users[0] if len(users) == 1 and not self.leaves(value) else None


class Pattern:
    """One walk through the nodes of a match.

    Attributes:
        own: nodes that the match replaces; nobody else may use what they make.
        shared: nodes that the match reads through, and that others may use, too.
    """

    def __init__(self, uses: Uses, anchor: Node) -> None:
        self.uses = uses
        self.own: list[Node] = [anchor]
        self.shared: list[Node] = []

    def producer(self, operand: Operand, op: str, otherwise: str, *, shared: bool = False) -> Node:
        """The node of that op that makes the operand, casts between floats passed over."""
        made = self.through_casts(operand, shared=shared)
        found = made.producer if isinstance(made, Value) else None
        if found is None or found.op != op:
            raise NoMatch(otherwise)
        (self.shared if shared else self.own).append(found)
        return found

    def user(self, value: Value, op: str, otherwise: str) -> Node:
        """The one node that uses the value, of that op; casts between floats passed over."""
        while True:
            need(not self.uses.leaves(value), f"{otherwise}: it is a result of the function")
            users = self.uses.nodes(value)
            found = " and ".join(user.op for user in users) or "nothing"
            need(len(users) == 1, f"{otherwise}: it goes to {found}")
            (node,) = users
            self.own.append(node)
            if not is_float_cast(node):
                break
            value = node.result
        need(node.op == op, f"{otherwise}: it goes to {node.op}")
        return node

    def through_casts(self, operand: Operand, *, shared: bool = False) -> Operand:
        """What the operand was before casts between floats."""
        while isinstance(operand, Value) and operand.producer is not None:
            if not is_float_cast(operand.producer):
                break
            (self.shared if shared else self.own).append(operand.producer)
            operand = operand.producer.operands[0]
        return operand

    def need_private(self, results: Iterable[Value]) -> None:
        """Raises NoMatch if anyone else uses what the own nodes make, the results apart."""
        inside, kept = {*self.own, *self.shared}, set(results)
        for node in self.own:
            for value in node.results:
                if value in kept:
                    continue
                need(not self.uses.leaves(value), f"{node.op} is a result of the function, too")
                for user in self.uses.nodes(value):
                    need(user in inside, f"{node.op} has another user, {user.op}{_at(user)}")


def is_float_cast(node: Node) -> bool:
    """A cast that keeps the value, up to rounding."""
    if node.op != "tensor.cast":
        return False
    kinds = [o.type for o in (*node.operands, *node.results)]
    return all(isinstance(kind, TensorType) and kind.dtype in FLOATS for kind in kinds)


def last_axis(value: Operand, axis: object) -> bool:
    """Does the attribute name the last axis of the value?"""
    return isinstance(axis, int) and axis in (-1, len(value.type.shape) - 1)


def _at(node: Node) -> str:
    return f" at {node.loc}" if node.loc else ""
