"""Runs the real code of `tensorrt.plugin` on our plug-in, in a process of its own: what TensorRT's
parser and builder do with it, step by step. Prints what they get as JSON.

The bindings are NVIDIA's; behind them are libraries without any code, which `test_plugins.py`
makes. Ours are, for that reason: the registry, the expressions of shapes, and what receives them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorrt_bindings

from arkinfer_trt.kernels.gemv import (
    ATTRIBUTE,
    NAMESPACE,
    OP,
    VERSION,
    Gemv,
    Kernel,
    kernel_name,
    tactics,
)
from arkinfer_trt.plugins import register

sys.modules["tensorrt"] = trt = tensorrt_bindings
TOKENS = (1, 4, 7)
"""For which launches are evaluated."""


class Registry:
    """Keeps creators, as TensorRT's does."""

    creators: dict[tuple[str, str, str], Any] = {}

    def register_creator(self, creator: Any, namespace: str) -> bool:
        self.creators[creator.name, creator.plugin_version, namespace] = creator
        return True

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        return self.creators.get((name, version, namespace))


class Expression:
    """An integer that may depend on the number of tokens."""

    def __init__(self, value: Callable[[int], int], constant: bool) -> None:
        self.value, self._constant = value, constant

    def is_constant(self) -> bool:
        return self._constant

    def get_constant_value(self) -> int:
        assert self._constant
        return self.value(0)


class Scalar:
    """Stands for ISymExpr, which keeps a pointer into TensorRT."""


class Builder:
    """Makes expressions out of expressions."""

    def constant(self, value: int) -> Expression:
        return Expression(lambda _: value, True)

    def operation(self, kind: Any, a: Expression, b: Expression) -> Expression:
        compute: dict[str, Callable[[int, int], int]] = {
            "SUM": lambda p, q: p + q,
            "PROD": lambda p, q: p * q,
            "FLOOR_DIV": lambda p, q: p // q,
            "CEIL_DIV": lambda p, q: -(-p // q),
        }
        apply = compute[kind.name]
        both = a.is_constant() and b.is_constant()
        return Expression(lambda t: apply(a.value(t), b.value(t)), both)


class Expressions(list[Any]):
    """Stands for DimsExprs, and for the receiver of scalars."""

    def __init__(self, count: int = 0) -> None:
        super().__init__([None] * count)

    def __setattr__(self, name: str, value: int) -> None:
        assert name == "nbSymExprs"
        self[:] = [None] * value


def kernels(gemv: Gemv) -> dict[str, Kernel]:
    """Not compiled: TensorRT does not look into them before it runs them."""
    found: dict[str, Kernel] = {}
    for number, tile in tactics(gemv).items():
        name = kernel_name(gemv, tile)
        found[name] = Kernel(name, f"ptx of {name}", tile.threads, 64 * number)
    return found


def made(gemv: Gemv) -> Any:
    """The plug-in of a node, as the parser of ONNX makes it."""
    creator = trt.get_plugin_registry().get_creator(OP, VERSION, NAMESPACE)
    numbers = np.array(gemv.attribute, np.int32)
    field = trt.PluginField(ATTRIBUTE, numbers, trt.PluginFieldType.INT32)
    return creator.create_plugin(
        OP,
        NAMESPACE,
        trt.PluginFieldCollection([field]),
        trt.TensorRTPhase.BUILD,
        trt.QuickPluginCreationRequest.STRICT_AOT,
    )


def described(kind: Any, shape: tuple[int, ...]) -> Any:
    found = trt.DynamicPluginTensorDesc()
    found.desc.type, found.desc.dims = kind, trt.Dims(shape)
    found.desc.format = trt.TensorFormat.LINEAR
    return found


def built(plugin: Any, gemv: Gemv) -> dict[str, Any]:
    """What the builder of an engine learns, in the order in which it asks."""
    dynamic, builder = Expression(lambda t: t, False), Builder()
    half, integer = trt.DataType.HALF, trt.DataType.INT32
    parts = [shape for _, shape in gemv.parts().values()]
    types = plugin.get_output_data_types([half, integer, half], [3, 3, 3])
    x = [builder.constant(1), dynamic, builder.constant(gemv.inputs)]
    weights = [[builder.constant(n) for n in shape] for shape in parts]
    (y,) = plugin.get_output_shapes([x, *weights], [], builder)
    descs = [
        described(half, (1, -1, gemv.inputs)),
        described(integer, parts[0]),
        described(half, parts[1]),
        described(half, (1, -1, gemv.width)),
    ]
    combinations = plugin.get_supported_format_combinations(descs, 3)
    plugin.configure_plugin(descs[:3], descs[3:])
    launches: dict[int, Any] = {}
    for tactic in plugin.get_valid_tactics():
        plugin.set_tactic(tactic)
        call, scalars = SimpleNamespace(), Expressions()
        plugin.get_launch_params([x, *weights], descs, 3, call, scalars, builder)
        name, ptx = plugin.get_kernel([d.desc for d in descs[:3]], [d.desc for d in descs[3:]])
        launches[tactic] = {
            "kernel": [name, ptx.decode()],
            "launch": {key: [v.expr.value(t) for t in TOKENS] for key, v in vars(call).items()},
            "scalars": [[s.expr.value(t) for t in TOKENS] for s in scalars],
            "scalar types": [str(s.dtype) for s in scalars],
        }
    return {
        "types": [str(kind) for kind in types],
        "y": [[each.value(t) for t in TOKENS] for each in y],
        "formats": [[str(d.type), str(d.format)] for d in combinations],
        "aliased": plugin.get_aliased_input(0),
        "launches": launches,
    }


def failure(call: Callable[[], Any]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main() -> None:
    trt.get_plugin_registry = Registry
    trt.IDimensionExpr, trt.DimsExprs, trt.ISymExpr = Expression, Expressions, Scalar
    gemv, other = (Gemv(*map(int, numbers.split(","))) for numbers in sys.argv[1:])
    register(kernels(gemv))
    creator = Registry.creators[OP, VERSION, NAMESPACE]
    found = built(made(gemv), gemv)
    found["version"] = trt.__version__
    found["fields"] = [[field.name, str(field.type)] for field in creator.field_names]
    found["other weights"] = failure(lambda: built(made(gemv), other))
    found["other matrix"] = failure(lambda: built(made(other), other))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
