"""How the caches that a step takes are kept: by dtype, and by what reads them.

Knows the IR and `arkinfer_tvm.storage`; no kernel.
"""

from __future__ import annotations

from arkinfer import ir
from arkinfer.errors import UnsupportedError
from arkinfer_tvm.storage import Cache, Order

CACHES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32", "i8": "int8"}
"""Caches that kernels read: IR dtype -> `storage.STORED`; the preferred one first."""


def cache_forms(function: ir.Function) -> dict[ir.Value, Cache]:
    """The form of every cache that a function takes.

    Raises:
        UnsupportedError: a cache is read as keys and as values, or its shape is not fixed.
    """
    orders = _orders(function)
    forms: dict[ir.Value, Cache] = {}
    for value in function.inputs:
        if isinstance(value.type, ir.CacheType):
            _, heads, size = value.type.shape
            if not isinstance(heads, int) or not isinstance(size, int):
                raise UnsupportedError(f"The cache {value.name} has {heads} heads of {size}")
            order = orders.get(value, "keys")
            forms[value] = Cache(heads, size, CACHES[value.type.dtype], order)
    return forms


def _orders(function: ir.Function) -> dict[ir.Value, Order]:
    origin = {value: value for value in function.inputs}
    orders: dict[ir.Value, Order] = {}
    for node in function.nodes:
        if node.op == "cache.append":
            taken = [value for value in node.values if isinstance(value.type, ir.CacheType)]
            origin.update(zip(node.results, (origin[value] for value in taken), strict=True))
            orders.update((origin[scales], "scales") for scales in taken[1:])
        elif node.op == "attn.dense":
            _, keys, values, *scales = node.values
            others: list[Order] = ["scales"] * len(scales)
            names: list[Order] = ["keys", "values", *others]
            for order, value in zip(names, (keys, values, *scales), strict=True):
                if orders.setdefault(origin[value], order) != order:
                    raise UnsupportedError(
                        f"{node.op} at {node.loc} reads a cache as {order}",
                        f"It is read as {orders[origin[value]]}, too, and these lie otherwise",
                    )
    return orders
