"""The caches of a function that hold keys or values as floats, for passes that keep them otherwise.

Knows no way to keep them.
"""

from __future__ import annotations

from arkinfer.errors import UnsupportedError
from arkinfer.ir import CacheType, Function, Node, Operand, Value
from arkinfer.ir.ops.attention import SCALES
from arkinfer.ir.types import FLOATS


def float_caches(function: Function, form: str) -> dict[Value, Node]:
    """Each cache of floats that the function is given, and the one node that appends to it.

    Args:
        function: caches of it that nothing uses do not count, and neither do scales of int8 ones.
        form: what the caches are to be kept in, for the error.

    Raises:
        UnsupportedError: something else than appends and dense attention uses one.
    """
    users = function.users()
    found: dict[Value, Node] = {}
    for past in function.inputs:
        if dtype_of(past) not in FLOATS:
            continue
        if all(past in _scales_of(user) for user in users[past]):
            continue
        for node in users[past]:
            if node.op != "cache.append":
                raise _misfit(past, node, form)
        (found[past],) = users[past]  # the verifier allows no more
        for node in users[found[past].result]:
            if node.op != "attn.dense":
                raise _misfit(past, node, form)
    return found


def dtype_of(value: Value) -> str:
    """That a cache holds; "" for any other value."""
    return value.type.dtype if isinstance(value.type, CacheType) else ""


def retype(past: Value, append: Node, dtype: str) -> None:
    """Another dtype for a cache before and after its append."""
    for value in (past, append.results[0]):
        value.type = CacheType(dtype, value.type.shape)


def _scales_of(node: Node) -> list[Operand]:
    return node.operands[SCALES[node.op] :] if node.op in SCALES else []


def _misfit(past: Value, node: Node, form: str) -> UnsupportedError:
    return UnsupportedError(
        f"The cache {past.name} cannot be kept in {form}",
        f"{node.op} at {node.loc or 'an unnamed place'} reads it; only attention after an append "
        "can",
        "Keep the cache in fp32",
    )
